"""`torchrun -m statefilm train`: two processes train as one does, and none outlives the other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from statefilm.training import Trainer, load_recipe

CHANGES = ["precision=float32", "samples.every_steps=0", "checkpoint.every_steps=2"]

ONE_BLOCK = "model.overrides.plan=[{mixer: hydra, image_scan: H, video_scan: H}]"


def start(folder, *changes):
    """A smoke run of two processes under torchrun."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "statefilm", "train", "smoke_world_t2i"),
            *(*CHANGES, *changes, "--output", str(folder), "--quiet"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(launcher):
    """The processes that torchrun has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [int(pid) for pid, command in commands.items() if b"statefilm" in command]


def metrics(folder):
    lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_run_and_it_goes_on_from_its_checkpoint(tmp_path):
    folder, course = tmp_path / "two", ["steps=100000", "optimizer.schedule=constant"]
    launcher = start(folder, *course)
    while launcher.poll() is None and not list(folder.glob("checkpoints/step-*4")):
        time.sleep(0.05)
    os.kill(workers(launcher)[-1], signal.SIGKILL)
    killed = time.monotonic()
    _, said = launcher.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert launcher.returncode != 0
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "process 0 of 2 lost another one and leaves" in line
    assert not list((folder / "checkpoints").glob(".*"))

    last = max(int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*"))
    course[0] = f"steps={last + 2}"
    launcher = start(folder, *course)
    printed, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0
    assert printed == f"{folder / 'pipeline'}\n"

    Trainer(
        load_recipe("smoke_world_t2i", [*CHANGES, *course]),
        tmp_path / "one",
        device="cpu",
        quiet=True,
    ).fit()
    one, two = metrics(tmp_path / "one"), metrics(folder)
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for alone, shared in zip(one, two, strict=True):
        # Muon orthogonalises in bfloat16.
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-3)
        assert shared["samples"] == alone["samples"]


def test_a_signal_to_the_launcher_saves_first_and_the_same_command_goes_on(tmp_path):
    command = [tmp_path, "steps=200", "checkpoint.every_steps=0", ONE_BLOCK]
    launcher = start(*command)
    while launcher.poll() is None and not (tmp_path / "logs" / "metrics.jsonl").exists():
        time.sleep(0.01)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert not [line for line in said.splitlines() if line.startswith("error: ")]
    (saved,) = (tmp_path / "checkpoints").iterdir()
    done = int(saved.name.removeprefix("step-"))
    assert 1 <= done < 200 and metrics(tmp_path)[-1]["step"] == done

    launcher = start(*command)
    printed, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0
    assert printed == f"{tmp_path / 'pipeline'}\n"
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 201))
