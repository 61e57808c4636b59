"""What befalls one process concerns all: numbers that are not finite, or that it is gone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from statefilm.training.parallel.watch import GRACE_SECONDS, KEEPALIVE

LAUNCH = Path(__file__).with_name("launch.py")
CHANGES = [
    *("precision=float32", "optimizer={name: adamw, lr: 0.001}", "steps=4"),
    *("data.0.batch_size=6", "samples.every_steps=0", "model.overrides.head_dim=8"),
    "model.overrides.plan=[{mixer: hydra, image_scan: H, video_scan: H}]",
]
INFINITE = {
    "replicate 2": [],
    "shard 2": ["parallel.shard=2"],
    "context 2": ["parallel.context=2"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder with all runs, and what their processes said on stderr."""
    folder = tmp_path_factory.mktemp("runs")

    def entry(name, *changes):
        return ["smoke_world_t2i", str(folder / name), [*CHANGES, *changes], "auto"]

    once, infinite = entry("once", "max_skipped_steps=0"), INFINITE.items()
    jobs = [
        {"processes": 1, "infinite": [1], "runs": [entry("one")]},
        {"processes": 2, "infinite": [1], "runs": [*(entry(n, *c) for n, c in infinite), once]},
        {
            "processes": 4,
            "killed": 2,
            "runs": [entry("killed", "parallel.shard=2", "data.0.batch_size=8")],
        },
        {"processes": 3, "killed": 2, "deaf": True, "runs": [entry("deaf")]},
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, str(LAUNCH), str(folder / "jobs.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return folder, done.stderr.splitlines()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", INFINITE)
def test_a_loss_that_is_infinite_on_one_process_skips_the_step_on_all(runs, name):
    folder, _ = runs
    found, alone = (lines_of(folder / run / "logs" / "metrics.jsonl") for run in (name, "one"))
    assert [line["step"] for line in found] == [1, 3, 4]
    assert [line["skipped"] for line in found] == [0, 1, 1]
    for here, there in zip(found, alone, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)
    (skipped,) = lines_of(folder / name / "logs" / "skipped.jsonl")
    assert skipped["step"] == 2
    assert skipped["samples"] == [f"sample {number}" for number in range(6, 12)]


def test_too_many_such_steps_end_the_run_on_all_processes(runs):
    folder, _ = runs
    lines = (folder / "once.errors").read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("FloatingPointError: step 2: not finite") for line in lines)


def test_when_one_of_four_is_killed_the_other_three_leave_with_a_line_each(runs):
    folder, _ = runs
    lines = sorted((folder / "killed.errors").read_text().splitlines())
    assert len(lines) == 3
    for rank, line in enumerate(sorted(lines)):
        assert line.startswith(f"ConnectionError: process {rank} of 4 lost another one and leaves")
        assert "start the run again to go on from its last checkpoint" in line
    assert json.loads((folder / "killed.ends").read_text())["seconds"] < 30
    assert [line["step"] for line in lines_of(folder / "killed/logs/metrics.jsonl")] == [1, 2]


def test_processes_that_nobody_tells_of_a_lost_one_leave_with_a_line_each_too(runs):
    folder, said = runs
    ends = json.loads((folder / "deaf.ends").read_text())
    assert ends["codes"] == [1, 1, -9]
    assert ends["seconds"] < 30
    lines = sorted(line for line in said if line.startswith("error: "))
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        assert line.startswith(f"error: process {rank} of 3 lost another one and leaves")


def test_a_silent_machine_is_given_up_within_half_a_minute():
    idle, interval, count = KEEPALIVE.values()
    assert idle + interval * count + GRACE_SECONDS < 30
