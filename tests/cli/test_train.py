"""`statefilm train` and `eval world`: from a recipe to a model that makes images and is scored."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from statefilm.data.world.tasks import T2I_TASKS

RECIPE = "smoke_world_t2i"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run folder of the smallest recipe."""
    from statefilm.cli.main import run

    folder = tmp_path_factory.mktemp("runs") / "smoke"
    assert run(["train", RECIPE, "steps=2", "--output", str(folder), "--quiet"]) == 0
    return folder


def test_quiet_training_says_nothing(cli):
    outcome = cli("train", RECIPE, "steps=1", "-o", "run", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "run/pipeline\n", "")


def test_train_then_image(cli, trained):
    assert (trained / "recipe.yaml").is_file()
    for model in (trained, trained / "pipeline"):
        outcome = cli(
            "image", "a red circle", "-m", model, "-s", 1, "--steps", 1, "--json", "--force"
        )
        assert outcome.code == 0
        assert json.loads(outcome.out)["width"] == 32


def test_training_goes_on_where_it_stopped(cli, tmp_path):
    assert cli("train", RECIPE, "steps=1", "-o", "run").code == 0
    outcome = cli("train", RECIPE, "steps=2", "-o", "run")
    assert outcome.code == 0, outcome.err
    assert outcome.paths == ["run/pipeline"]
    assert "step 1" in outcome.err


def test_a_finished_run_is_not_started_over(refused, trained):
    def times():
        return {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}

    before = times()
    refused("train", RECIPE, "steps=2", "-o", trained, "--resume", "none", "-q")
    assert times() == before


def test_dry_run_checks_and_makes_nothing(cli, refused, tmp_path):
    assert cli("train", RECIPE, "--dry-run").code == 0
    assert not any(tmp_path.iterdir())
    assert "unknown key 'stepz'" in refused("train", RECIPE, "stepz=3", "--dry-run")
    assert "'steps'" in refused("train", RECIPE, "steps", "--dry-run")
    assert "no/checkpoint" in refused("train", RECIPE, "--resume", "no/checkpoint", "-q")


def test_eval_world_prints_a_table_and_writes_results(cli, model, tmp_path):
    args = ("eval", "world", "-m", model, "--tasks", "single_object,colors", "--clips", 2)
    args += ("--images-per-task", 4, "--steps", 1, "--output", "scores")
    outcome = cli(*args)
    assert outcome.code == 0, outcome.err
    assert "single_object.strict" in outcome.out and "motion_class" in outcome.out
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    entry = results["metrics"]["colors.parity"]
    assert set(entry) == {"value", "low", "high", "n", "floor"}
    assert entry["n"] == 4 and entry["low"] <= entry["value"] <= entry["high"]
    used = results["details"]["run"]
    assert used["num_inference_steps"] == 1
    assert (used["guidance_scale"], used["video_guidance_scale"]) == (3, 2)
    assert {"total_score", "event_order", "colors.soft"} <= results["metrics"].keys()
    page = (tmp_path / "scores" / "index.html").read_text("utf-8")
    assert "event_order.worst" in page and page.count("data:image/webp") > 20
    assert cli(*args).code == 2  # results are not overwritten


def test_world_scores_while_training_are_logged_and_said(cli, tmp_path):
    changes = ("steps=1", "samples.every_steps=1", "samples.steps=1", "samples.world_scores=1")
    outcome = cli("train", RECIPE, *changes, "-o", "run")
    assert outcome.code == 0, outcome.err
    rows = (tmp_path / "run" / "logs" / "metrics.jsonl").read_text().splitlines()
    logged = {k: v for row in map(json.loads, rows) for k, v in row.items() if k[:6] == "world/"}
    assert list(logged) == [f"world/{task}" for task in (*T2I_TASKS, "mean")]
    assert all(0 <= value <= 1 for value in logged.values())
    (line,) = [line for line in outcome.err.splitlines() if "world scores" in line]
    assert line.startswith("step 1: world scores single_object 0.")
    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert set(logged) <= set(events.Tags()["scalars"])
    assert events.Scalars("world/mean")[0].value == pytest.approx(logged["world/mean"])
