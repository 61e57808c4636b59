"""Weights & Biases: told what the files are told, found again, and never the end of a training.

A stand-in takes the place of the package; where that is installed, it keeps a run on the disk too.
"""

import json
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

from statefilm.errors import UsageError
from statefilm.training import Trainer
from statefilm.training.logs import Logs

from .conftest import metrics, tiny_recipe, train

STAND_IN = """
import json, os
from pathlib import Path

def note(**row):
    with Path(os.environ["WANDB_NOTES"]).open("a") as lines:
        lines.write(json.dumps(row) + "\\n")

class Settings:
    def __init__(self, **fields):
        self.fields = fields

class Run:
    offline, url = False, "https://example.org/run"

    def __init__(self, fields):
        self.file = Path(os.environ["WANDB_NOTES"]).with_name(fields["id"])

    @property
    def step(self):
        return int(self.file.read_text()) + 1 if self.file.exists() else 0

    def log(self, data, step):
        if str(step) == os.environ.get("WANDB_BREAKS_AT"):
            raise ConnectionError("the service\\nis gone")
        self.file.write_text(str(step))
        note(call="log", step=step, data=data)

    def finish(self, exit_code):
        note(call="finish", exit_code=exit_code)

def init(settings, mode=None, **fields):
    note(call="init", mode=mode, **fields)
    if (mode or "online") in os.environ.get("WANDB_AWAY", "").split(","):
        raise ConnectionError("no such host\\nwhile retrying")
    return Run(fields)

def teardown():
    note(call="teardown")
"""


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """The calls that the stand-in has seen, those of one name or all."""
    place = tmp_path / "stand-in"
    place.mkdir()
    (place / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    file = tmp_path / "notes.jsonl"
    file.touch()
    monkeypatch.setenv("WANDB_NOTES", str(file))

    def read(call=None):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return [row for row in rows if call in (None, row["call"])]

    yield read
    sys.modules.pop("wandb", None)


def logged(notes):
    return [{"step": row["step"], **row["data"]} for row in notes("log")]


def test_it_is_told_what_the_file_is_told(notes, tmp_path, capsys):
    recipe = tiny_recipe("log.wandb=films", "name=first")
    Trainer(recipe, tmp_path / "run", device="cpu").fit()
    (start,) = notes("init")
    assert (start["project"], start["name"], start["mode"]) == ("films", "first", None)
    assert start["config"] == recipe.model_dump(mode="json")
    assert start["dir"] == str(tmp_path / "run")
    rows = (tmp_path / "run" / "logs" / "metrics.jsonl").read_text().splitlines()
    assert logged(notes) == [json.loads(row) for row in rows] and len(rows) == 4
    assert [row["exit_code"] for row in notes("finish")] == [0]
    assert "W&B: https://example.org/run" in capsys.readouterr().err


def test_a_run_that_goes_on_is_the_same_one_and_tells_nothing_twice(notes, tmp_path):
    changes = ["log.wandb=films", "checkpoint.every_steps=2"]
    train(tiny_recipe(*changes, "steps=3"), tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "step-00000003").iterdir():
        file.write_bytes(b"")  # as a run that was killed before it was saved
    train(tiny_recipe(*changes, "steps=5"), tmp_path / "run")
    first, second = notes("init")
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert [row["step"] for row in logged(notes)] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]
    train(tiny_recipe(*changes), tmp_path / "other")
    assert notes("init")[-1]["id"] != first["id"]


def test_a_service_that_is_away_is_waited_for_on_the_disk(
    notes, tmp_path, monkeypatch, warnings_of
):
    monkeypatch.setenv("WANDB_AWAY", "online")
    train(tiny_recipe("log.wandb=films"), tmp_path / "run")
    (told,) = warnings_of()
    assert "kept in" in told and "`wandb sync`" in told and "(no such host)" in told
    assert [row["mode"] for row in notes("init")] == [None, "offline"]
    assert len(logged(notes)) == 4 and notes("finish")


def test_one_that_fails_altogether_ends_no_training(notes, tmp_path, monkeypatch, warnings_of):
    monkeypatch.setenv("WANDB_AWAY", "online,offline")
    train(tiny_recipe("log.wandb=films"), tmp_path / "run")
    assert warnings_of()[-1] == "log.wandb: nothing more is logged there (no such host)"
    assert len(metrics(tmp_path / "run")) == 4 and not logged(notes)


def test_one_that_goes_away_ends_no_training(notes, tmp_path, monkeypatch, warnings_of):
    monkeypatch.setenv("WANDB_BREAKS_AT", "2")
    train(tiny_recipe("log.wandb=films"), tmp_path / "run")
    assert warnings_of() == ["log.wandb: nothing more is logged there (the service)"]
    assert [row["step"] for row in logged(notes)] == [1]
    assert len(metrics(tmp_path / "run")) == 4


def test_a_training_that_fails_is_said_to_have_failed(notes, tmp_path):
    recipe = tiny_recipe("log.wandb=films", "max_skipped_steps=0", "optimizer.lr=1e30", "steps=50")
    with pytest.raises(FloatingPointError):
        train(recipe, tmp_path / "run")
    assert [row["exit_code"] for row in notes("finish")] == [1]


def test_other_processes_tell_nothing(notes):
    with Logs(None, 0, 4, quiet=True, recipe=tiny_recipe("log.wandb=films")) as logs:
        logs.record(1, {"loss": 1.0})
    assert not notes()


@pytest.mark.parametrize("found", [None, ModuleType("wandb")])  # nothing, or a folder of that name
def test_without_the_package_the_extra_is_named(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", found)
    with pytest.raises(UsageError, match=r"log\.wandb needs wandb: .*statefilm\[wandb\]") as caught:
        train(tiny_recipe("log.wandb=films"), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("wandb") is None, reason="the extra wandb is not installed")
def test_the_real_package_keeps_a_run_on_the_disk(tmp_path, monkeypatch, warnings_of):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tiny_recipe("log.wandb=films"), tmp_path / "run")
    assert not warnings_of()
    name = (tmp_path / "run" / "logs" / "wandb-id").read_text().strip()
    (kept,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb")
    assert b"loss_image" in kept.read_bytes()
