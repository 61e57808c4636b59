"""Several workers: the same result as one, and what a lost one had is not lost."""

import importlib.util
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from statefilm.data.latents import open_latents, verify

# What `encode` of conftest.py does, as a program of its own.
PROGRAM = """
import sys
from pathlib import Path
from statefilm.data.files import assign, make_buckets, open_source
from statefilm.training.latents import EncoderSpec, Options, encode_files

data, vae, text, folder = map(Path, sys.argv[1:])
buckets = make_buckets(16 * 16, 8, ratios=(1, 2), lengths=(1, 5))
source = open_source(data)
spec = EncoderSpec(vae=vae, text=text, max_length=8, dtype="float32", device="cpu")
options = Options(batch_size=3, shard_size=1)
encode_files(
    source, assign(source.entries, buckets), spec, folder, options, engine="ray", workers=2
)
"""


def names(folder):
    return {path.name for path in folder.rglob("*.safetensors")}


def test_a_worker_is_killed_and_the_next_run_goes_on(encode, tmp_path):
    folder = tmp_path / "latents"
    encode("alone")

    def kill_one(done, to_do):
        if done:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="a worker ended without a word"):
        encode(workers=2, progress=kill_one)
    assert not multiprocessing.active_children()
    assert not (folder / "index.jsonl").exists()
    kept = names(folder)
    assert kept and kept < names(tmp_path / "alone")
    encode()
    assert names(folder) == names(tmp_path / "alone")


def test_several_processes_do_as_one(encode, tmp_path):
    encode("alone")
    reached = []
    encode(workers=2, progress=lambda done, to_do: reached.append((done, to_do)))
    assert names(tmp_path / "latents") == names(tmp_path / "alone")
    assert reached[0] == (0, 28) and reached[-1] == (28, 28)
    assert reached == sorted(reached)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install ray[data]")
def test_ray_does_without_a_worker_that_is_killed(encode, tmp_path, data, vae, text):
    folder = tmp_path / "ray"
    home = tmp_path / "home"
    home.mkdir()
    driver = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, data, vae, text, folder],
        # Ray's workers are as nice as can be, and would wait for all other tests.
        env={**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while driver.poll() is None and not names(folder):
            time.sleep(0.01)
        workers = ray_workers(driver.pid)
        before = names(folder)
        if driver.poll() is None:
            os.kill(workers[0], signal.SIGKILL)
        _, said = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert driver.returncode == 0, said
    assert workers, said
    encode("alone", options={"shard_size": 1})
    assert len(before) < len(names(tmp_path / "alone"))  # there was work left for the other
    assert names(folder) == names(tmp_path / "alone")
    assert verify(folder).is_whole and len(open_latents(folder).rows) == 15


def ray_workers(driver):
    """The processes in which a driver's Ray encodes."""
    found, parents = [], {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parents[int(status.parent.name)] = int(
                re.search(r"^PPid:\s*(\d+)", status.read_text(), re.MULTILINE)[1]
            )
            if b"ray::MapWorker" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return [pid for pid in found if driver in ancestors(pid, parents)]


def ancestors(pid, parents):
    while pid in parents:
        pid = parents[pid]
        yield pid
