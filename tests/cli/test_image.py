"""`statefilm image`: what is written, where, and that it can be made again bit for bit."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from statefilm.pipelines.provenance import read_provenance

PROMPT = "a red circle"


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_writes_a_file_and_prints_path_and_seed(cli, model):
    outcome = cli("image", PROMPT, "-m", model, "--seed", 7)
    assert outcome.code == 0
    assert outcome.paths == ["outputs/a-red-circle_7.png"]
    assert "seed 7" in outcome.err
    assert pixels(outcome.paths[0]).shape == (32, 32, 3)
    meta = read_provenance(outcome.paths[0])
    assert (meta["prompt"], meta["seed"], meta["steps"]) == (PROMPT, 7, 2)
    assert meta["guidance_scale"] == 3
    assert len(meta["model_hash"]) == 64


def test_random_seed_is_printed_and_stored(cli, model):
    seeds = set()
    for name in ("a.png", "b.png"):
        outcome = cli("image", PROMPT, "-m", model, "-o", name, "--quiet")
        seed = int(re.fullmatch(r"seed (\d+)\n", outcome.err).group(1))
        assert read_provenance(name)["seed"] == seed
        seeds.add(seed)
    assert len(seeds) == 2


def test_sample_i_is_seed_plus_i_alone_and_among_others(cli, model):
    many = cli("image", PROMPT, "-p", "a blue square", "-m", model, "-s", 5, "-N", 2, "-o", "many/")
    assert [read_provenance(path)["seed"] for path in many.paths] == [5, 6, 7, 8]
    alone = cli("image", "a blue square", "-m", model, "-s", 8, "-o", "alone.png")
    assert np.array_equal(pixels(alone.paths[0]), pixels(many.paths[3]))
    assert not np.array_equal(pixels(many.paths[2]), pixels(many.paths[3]))


@pytest.mark.parametrize(
    "args",
    [
        ("a circle", "--seed", 3, "--steps", 3, "-g", 2.5, "--sampler", "unipc", "--size", "24x16"),
        ("-p", "--odd start", "-n", "a cross", "--seed", 4),
        ("a circle", "-p", 'it\'s "two"', "-N", 2, "--grid", "--seed", 9),
        ("a circle", "-p", "a cross", "--grid", "--seed", 9, "--batch-size", 2, "-n", "red"),
    ],
)
def test_as_args_makes_the_same_bytes(cli, model, args):
    assert cli("image", *args, "-m", model, "-o", "first.png", "-q").code == 0
    command = shlex.split(cli("meta", "first.png", "--as-args").out)
    assert command[:2] == ["statefilm", "image"]
    assert cli(*command[1:2], "-o", "again.png", *command[2:]).code == 0
    with open("first.png", "rb") as first, open("again.png", "rb") as again:
        assert first.read() == again.read()


def test_grid_is_one_sheet_of_all_samples(cli, model):
    outcome = cli("image", "-p", "a", "-p", "b", "-N", 2, "--grid", "-m", model, "-o", "s.png")
    assert outcome.paths == ["s.png"]
    height, width, _ = pixels("s.png").shape
    assert height > 2 * 32 and width > 2 * 32
    assert [cell["prompt"] for cell in read_provenance("s.png")["grid"]] == ["a", "a", "b", "b"]


def test_json_has_a_line_for_each_file(cli, model):
    outcome = cli("image", PROMPT, "-m", model, "-N", 2, "-s", 1, "-o", "{seed}.png", "--json")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [(row["path"], row["seed"]) for row in rows] == [("1.png", 1), ("2.png", 2)]


def test_dry_run_writes_nothing(cli, model, tmp_path):
    outcome = cli("image", PROMPT, "-m", model, "-s", 1, "--dry-run")
    assert (outcome.code, outcome.paths) == (0, ["outputs/a-red-circle_1.png"])
    assert not any(tmp_path.iterdir())
    assert cli("image", PROMPT, "-m", model, "--size", "15x16", "--dry-run").code == 2


def test_skip_existing_makes_only_what_is_missing(cli, model, tmp_path):
    args = ("image", PROMPT, "-m", model, "-s", 1, "-N", 3, "-o", "{seed}.png")
    assert cli(*args).code == 0
    (tmp_path / "2.png").unlink()
    kept = (tmp_path / "1.png").stat().st_mtime_ns
    assert cli(*args, "--skip-existing").paths == ["2.png"]
    assert (tmp_path / "1.png").stat().st_mtime_ns == kept
    assert cli(*args, "--skip-existing").paths == []


def test_force_overwrites(cli, model, tmp_path):
    (tmp_path / "a.png").write_text("precious")
    assert cli("image", PROMPT, "-m", model, "-o", "a.png", "--force").code == 0
    assert pixels("a.png").shape == (32, 32, 3)


def test_preview_is_renewed_while_sampling(cli, model):
    outcome = cli("image", PROMPT, "-m", model, "-o", "a.png", "--preview", "now.png")
    assert outcome.paths == ["a.png"]
    # At the last step the foreseen sample is the sample; only the sheet's border is around it.
    assert np.array_equal(pixels("now.png")[2:-2, 2:-2], pixels("a.png"))


def test_prompts_file_seeds_and_negatives(cli, model, tmp_path):
    rows = [
        {"prompt": "a circle", "seed": 40, "negative_prompt": "red"},
        {"prompt": "a square"},
        {"prompt": "a cross", "negative_prompt": ""},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = cli("image", "--prompts-file", "p.jsonl", "-m", model, "-s", 7, "-n", "blue")
    metas = [read_provenance(path) for path in outcome.paths]
    found = [(m["seed"], m["negative_prompt"]) for m in metas]
    assert found == [(40, "red"), (8, "blue"), (9, "")]


def test_unknown_words_are_warned_of(cli, model):
    outcome = cli("image", "a red zeppelin", "-m", model, "-s", 1)
    assert outcome.code == 0
    assert "warning: the model does not know 'zeppelin'" in outcome.err
    assert "warning" not in cli("image", PROMPT, "-m", model, "-s", 1).err


def test_some_failures_are_listed_and_exit_3(cli, model, tmp_path):
    # The second file's name is too long for any file system: it fails when it is written.
    long = "x" * 300
    (tmp_path / "p.txt").write_text(f"a circle\na {long}\na square\n")
    outcome = cli("image", "--prompts-file", "p.txt", "-m", model, "-s", 1, "-o", "o/{seed}.png")
    assert outcome.code == 0
    (tmp_path / "o" / "2.png").unlink()
    (tmp_path / "o" / "2.png").mkdir()
    outcome = cli(
        "image", "--prompts-file", "p.txt", "-m", model, "-s", 1, "-o", "o/{seed}.png", "--force"
    )
    assert outcome.code == 3
    assert outcome.paths == ["o/1.png", "o/3.png"]
    assert "failed: o/2.png (seed 2)" in outcome.err
    assert "error: 1 of 3 samples failed" in outcome.err


def test_a_video_model_makes_no_images(cli, unet):
    outcome = cli("image", "-m", unet("none"))
    assert outcome.code == 2
    assert outcome.err.endswith("makes no images\nhint: try statefilm video\n")


def test_out_of_memory_says_what_would_fit(cli, model, tmp_path):
    outcome = cli("image", PROMPT, "-m", model, "--size", "400000x400000", "-o", "a.png")
    assert outcome.code == 4
    assert outcome.err.startswith("error: out of memory: ")
    size = re.search(r"hint: try --size (\d+)x\d+\n", outcome.err).group(1)
    assert 32 < int(size) < 400000
    assert not any(tmp_path.iterdir())
