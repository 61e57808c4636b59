"""`statefilm data verify`: files decoded to the end, and latents compared with their checksums."""

import json
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image

from statefilm.data.files import Bucket
from statefilm.data.latents import Encoding, Index, Row, key_of, write_index, write_shard


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures with captions, of which 05.png is cut short behind its header."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for number in range(12):
        Image.fromarray(noise + number).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text("noise")
    file = folder / "05.png"
    file.write_bytes(file.read_bytes()[:-1000])
    return folder


def test_what_inspect_cannot_see_is_broken(cli, pictures):
    seen = cli("data", "inspect", "pictures")
    assert seen.code == 0 and "0 broken" in seen.out
    assert "contents are not decoded (statefilm data verify does)" in seen.out
    found = cli("data", "verify", "pictures")
    assert found.code == 3 and found.err == ""
    broken, count = found.out.splitlines()
    assert broken.startswith("broken  05.png: ") and "truncated" in broken
    assert count == "pictures: 12 items, 1 broken"
    (pictures / "05.png").unlink()
    assert cli("data", "verify", "pictures").out == "pictures: 11 items, 0 broken\n"
    assert cli("data", "verify", "pictures").code == 0


def test_quiet_and_json(cli, pictures):
    (pictures / "03.png").write_bytes(b"no picture")
    quiet = cli("data", "verify", "pictures", "--quiet")
    assert quiet.code == 3
    assert [line.split(":")[0] for line in quiet.out.splitlines()] == [
        "broken  03.png",
        "broken  05.png",
    ]
    outcome = cli("data", "verify", "pictures", "--json")
    facts = json.loads(outcome.out)
    assert outcome.code == 3
    assert (facts["root"], facts["items"]) == ("pictures", 12)
    assert set(facts["broken"]) == {"03.png", "05.png"}


def test_files_of_a_recipe_and_of_its_validation(cli, pictures, tmp_path):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for name in ("00.png", "05.png"):
        (held_out / name).write_bytes((pictures / name).read_bytes())
    (pictures / "05.png").unlink()
    changes = (
        "data.0.files.path=pictures",
        "validation={data: {files: {path: held_out}, batch_size: 2}, batches: 1, every_steps: 1}",
    )
    outcome = cli("data", "verify", "own_images", *changes, "--json")
    facts = json.loads(outcome.out)
    assert outcome.code == 3
    assert facts["data.0.files"] == {"root": "pictures", "items": 11, "broken": {}}
    assert set(facts["validation.data.files"]["broken"]) == {"05.png"}
    shown = cli("data", "inspect", "own_images", *changes).out
    assert "data.0.files:\n" in shown and "validation.data.files:\nheld_out: 2 items" in shown


@pytest.fixture
def latents(tmp_path):
    """What `statefilm encode` writes of two samples, in two shards."""
    folder, encoding, rows = tmp_path / "latents", Encoding(vae=None, text=None), []
    for number in range(2):
        key = key_of(number)
        write_shard(folder / "latents", [key], {"latents": torch.full((1, 3, 1, 4, 4), number)})
        rows.append(Row(key, f"{number}.png", 0, Bucket(1, 4, 4)))
    write_index(folder, Index(encoding, tuple(rows), {}))
    return folder


def test_latents_are_compared_with_their_checksums(cli, latents):
    whole = cli("data", "verify", "latents")
    assert (whole.code, whole.out) == (0, "latents: 2 items, 0 broken\n")
    shard = next((latents / "latents").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    outcome = cli("data", "verify", "latents")
    damaged, missing, count = outcome.out.splitlines()
    assert outcome.code == 3
    assert damaged.startswith(f"broken  latents/latents/{shard.name}: its bytes have changed")
    assert missing.endswith(".png: no whole shard holds it: encode again")
    assert count == "latents: 2 items, 2 broken"
    assert len(json.loads(cli("data", "verify", "latents", "--json").out)["broken"]) == 2
    refusal = cli("data", "inspect", "latents")
    assert refusal.code == 2 and "latents has latents, no files" in refusal.err


def test_latents_of_a_recipe(cli, latents):
    outcome = cli("data", "verify", "world_t2i", "data.0.world=null", "data.0.latents.path=latents")
    assert (outcome.code, outcome.out) == (0, "latents: 2 items, 0 broken\n")


def test_an_encoding_that_has_not_finished_is_told_so(refused, latents):
    (latents / "index.jsonl").unlink()
    assert "statefilm encode has not finished there" in refused("data", "verify", "latents")


def test_a_bar_on_a_terminal_alone(cli, pictures, monkeypatch):
    for extra, has_bar in ((), True), (("--quiet",), False):
        terminal = StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr("sys.stderr", terminal)
        assert cli("data", "verify", "pictures", *extra).code == 3
        assert ("12/12" in terminal.getvalue()) == has_bar


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((".",), "holds no images or clips"),
        (("nowhere",), "nowhere: no such file or folder"),
        ((".", "areas=3"), "did you mean 'area'"),
        (("world_t2i",), "no data of files"),
    ],
)
def test_bad_input(refused, args, words):
    assert words in refused("data", "verify", *args)
