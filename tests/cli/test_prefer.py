"""`statefilm experiment prefer`: the command around the page; and studies beside it."""

import json
import os
import signal
import threading
import urllib.request

import pytest
from PIL import Image

from statefilm.cli import prefer
from statefilm.pipelines.checkpoint import model_hash


@pytest.fixture
def folders(tmp_path):
    for system, color in (("a", "red"), ("b", "blue")):
        (tmp_path / system).mkdir()
        for name in ("one.png", "two.png"):
            Image.new("RGB", (8, 8), color).save(tmp_path / system / name)
    (tmp_path / "a" / "three.png").write_bytes((tmp_path / "a" / "one.png").read_bytes())


@pytest.fixture
def judge_left(monkeypatch):
    """A reader of the page who finds the left one better each time, then presses Ctrl-C."""

    def read(address):
        def ask(path, body=None):
            return urllib.request.urlopen(f"{address}{path}", body, timeout=10).read()

        token = ask("").decode().split("/media/")[1].split("/")[0]
        state = json.loads(ask("state"))
        while "pair" in state:
            choice = {"token": token, "index": state["pair"]["index"], "answer": "left"}
            state = json.loads(ask("choice", json.dumps({**choice, "seconds": 1}).encode()))
        os.kill(os.getpid(), signal.SIGINT)

    def note(console, text):
        if "http://" in text:
            address = text.split()[1]
            threading.Thread(target=read, args=(address,)).start()

    monkeypatch.setattr(prefer.Console, "note", note)
    # What a shell starts in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_sitting_and_its_report(cli, folders, judge_left, tmp_path):
    outcome = cli("experiment", "prefer", "a", "b", "--port", 0, "-o", "out", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["wins"] + found["losses"] == 2 and found["ties"] == 0
    assert len((tmp_path / "out" / "choices.jsonl").read_text().splitlines()) == 3
    again = cli("experiment", "prefer", "a", "b", "-o", "out", "--report")
    assert again.code == 0 and "2 pairs: A better in" in again.out
    assert "No preference between A and B was found in 2 pairs." in again.out


def test_unpaired_files_are_told(cli, folders):
    outcome = cli("experiment", "prefer", "a", "b", "--report")
    assert "1 files have no partner" in outcome.err and "three.png" in outcome.err


def test_two_models_draw_the_prompts(cli, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    other = tmp_path / "other"
    other.symlink_to(model)
    args = ("experiment", "prefer", model, "other", "--prompts-file", "prompts.txt", "-o", "out")
    outcome = cli(*args, "--report", "--seed", 3)
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "out").glob("b-other-*")
    drawn = sorted(path.name for path in folder.iterdir())
    assert drawn == ["0000_a-red-circle_3.png", "0001_a-blue-square_4.png"]
    assert outcome.out.startswith("A = ") and "0 pairs" in outcome.out
    assert folder.name == f"b-other-{model_hash(other)[:10]}"
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    again = cli(*args, "--report", "--seed", 3, "--json")
    assert again.code == 0 and "partner" not in again.err
    choice = {"name": drawn[1], "preferred": "a", "left": "a", "seconds": 1.0, "time": 0.0}
    heads = {
        side: f"{name} {model_hash(other)[:10]}" for side, name in (("a", model), ("b", "other"))
    }
    lines = [json.dumps(heads), json.dumps(choice), json.dumps({**choice, "name": drawn[0]})]
    (tmp_path / "out" / "choices.jsonl").write_text("\n".join(lines) + "\n")
    assert json.loads(cli(*args, "--report", "--seed", 3, "--json").out)["wins"] == 1
    assert "give another folder" in cli(*args, "--report", "--num-frames", 5).err


def test_choices_between_models_that_were_trained_on_are_not_mixed(refused, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "out").mkdir()
    head = json.dumps({"a": f"{model} 0123456789", "b": "other 0123456789"})
    (tmp_path / "out" / "choices.jsonl").write_text(head + "\n")
    (tmp_path / "other").symlink_to(model)
    args = ("experiment", "prefer", model, "other", "--prompts-file", "prompts.txt", "-o", "out")
    assert "give another folder, or remove it" in refused(*args, "--report")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["choices.jsonl"]


def test_bad_input(refused, folders, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file is not a folder" in refused("experiment", "prefer", "a", "b", "-o", "file")
    assert "A and B are both 'a'" in refused("experiment", "prefer", "a", "a")
    assert "is not a folder of images" in refused("experiment", "prefer", "a", "c", "--report")


def test_studies_stand_beside_it(cli, refused):
    assert "ratio" in cli("experiment").out
    assert "unknown study 'temporl'" in refused("experiment", "temporl")
    assert "unknown study 'temporl'" in refused("experiment", "--share", "0.1", "temporl")
