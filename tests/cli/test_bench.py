"""`statefilm bench`: tables, files, bad input, and help without torch."""

import json
import subprocess
import sys

import pytest

from statefilm.evaluation.speed import machine

SMALL_OPS = "bench ops --dim 32 --head-dim 16 --state-dim 8 --rounds 1 --lengths 16,32".split()
SMALL_STEP = "bench denoiser --models hth_tiny,dit_tiny --tokens 4 --rounds 1".split()


@pytest.fixture
def quick(cli, monkeypatch):
    """The command line with small probes of the machine."""
    monkeypatch.setattr(machine, "MATMUL_SIZES", (16,))
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 1 << 10})
    return cli


def test_ops_write_their_files_once(quick, tmp_path):
    outcome = quick(*SMALL_OPS, "--threads", 1, "-o", "out")
    assert outcome.code == 0, outcome
    assert "### forward+backward" in outcome.out and "quasiseparable chunked" in outcome.out
    assert "TFLOP/s in matrix products" in outcome.out and "; 1 of " in outcome.out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["lengths"] == [16, 32] and results["machine"]["threads"] == 1
    assert (tmp_path / "out" / "table.md").read_text() == outcome.out
    again = quick(*SMALL_OPS, "-o", "out")
    assert again.code == 2 and "results.json exists" in again.err
    assert quick(*SMALL_OPS, "-o", "out", "--force", "-q").err == ""


def test_json_goes_to_stdout(quick):
    data = json.loads(quick(*SMALL_STEP, "--json", "-q").out)
    assert data["bench"] == "denoiser"
    assert [row["model"] for row in data["rows"]] == ["hth_tiny", "dit_tiny"]


def test_generate_has_stages_for_images_and_clips(quick, model):
    args = ("bench", "generate", "-m", model, "--batch-sizes", "1,2", "--rounds", 1, "--json")
    data = json.loads(quick(*args).out)
    assert [row["label"] for row in data["rows"]] == [
        *("image x 1", "image x 2", "video x 1", "video x 2")
    ]
    for row in data["rows"]:
        assert set(row["parts"]) == {"text", "denoise", "decode", "save"}
        assert all(seconds >= 0 for seconds in row["parts"].values())
        assert row["seconds_per_sample"] == row["seconds"] / row["batch"]
    assert data["summary"]["weight_bytes"]["transformer"] > 0


def test_named_sizes_are_those_of_info():
    from statefilm.cli.bench import latents_of
    from statefilm.evaluation.speed.denoiser import on_meta
    from statefilm.models.flops import token_grid

    large = {name: on_meta(name) for name in ("hth_5b", "dit_5b")}
    sizes = latents_of(large, "256p,1k,2K,180p,360p")
    assert list(sizes) == ["256p image", "1K image", "2K image", "180p x 128", "360p x 128"]
    grids = [token_grid({"patch_size": (1, 2, 2)}, size) for size in sizes.values()]
    assert grids[:3] == [(1, 16, 16), (1, 64, 64), (1, 128, 128)]
    assert latents_of({"hth_tiny": on_meta("hth_tiny")}, "256p") == {"256p image": (1, 256, 256)}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("ops", "--lengths", "a,2"), "lengths 'a,2' are not whole numbers"),
        (("ops", "--lengths", ""), "are not whole numbers"),
        (("ops", "--dim", 48, "--head-dim", 32), "head_dim 32 does not divide dim 48"),
        (("ops", "--dtype", "bfloat61"), "unknown dtype 'bfloat61'"),
        (("ops", "--device", "tpu9"), "device 'tpu9' is not available"),
        (("denoiser", "--models", "hth_5c"), "did you mean 'hth_5b'?"),
        (("denoiser", "--models", ","), "no models"),
        (("denoiser", "--models", "hth_5b,dit_tiny"), "take different latents"),
        (("denoiser", "--sizes", "3K"), "unknown size '3K'"),
        (("denoiser", "--models", "hth_tiny", "--sets", 2), "valid is 1 to 1"),
        (("generate", "-m", "world-46"), "unknown model 'world-46'"),
        (("generate", "--batch-sizes", "0"), "batch-sizes '0'"),
    ],
)
def test_bad_input(refused, tmp_path, args, says):
    assert says in refused("bench", *args)
    assert not any(tmp_path.iterdir())


def test_a_path_that_exists(refused, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "file is not a folder" in refused(*SMALL_OPS, "-o", "file")
    (tmp_path / "table.md").write_text("precious")
    assert "table.md exists" in refused(*SMALL_STEP, "-o", ".")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"precious"}


@pytest.mark.parametrize("command", ["ops", "denoiser", "generate"])
def test_help_needs_no_torch(command):
    code = "import sys; from statefilm.cli.main import run; run(sys.argv[1:]); "
    code += "print([m for m in ('torch', 'matplotlib', 'PIL') if m in sys.modules])"
    args = [sys.executable, "-c", code, "bench", command, "--help"]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: statefilm bench") and done.stdout.endswith("[]\n")
