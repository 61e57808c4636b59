"""Where a measurement was made: versions, commit, rates, threads."""

import subprocess

import torch

import statefilm
from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.floors import Rates
from statefilm.evaluation.speed.memory import peak_bytes

CPU = torch.device("cpu")


def test_the_description_says_what_and_where():
    rates = {torch.bfloat16: Rates(2.5e12, 4e10)}
    described = machine.describe(CPU, rates)
    assert described["statefilm"] == statefilm.__version__
    assert described["rates"] == {"bfloat16": {"matmul": 2.5e12, "copy": 4e10}}
    text = machine.line(described)
    assert "\n" not in text and described["cpu"] in text
    assert "bfloat16 2.5 TFLOP/s in matrix products, 40 GB/s in copies" in text
    assert f"{torch.get_num_threads()} of " in text


def test_rates_by_a_clock(monkeypatch):
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 1 << 10})
    seconds = iter(range(1000))
    rates = machine.measure_rates(CPU, torch.float32, clock=lambda: next(seconds))
    # Each product and each copy takes a second, so that the smallest product is large enough.
    assert rates == Rates(matmul=2 * machine.MATMUL_SIZES[0] ** 3, copy=2 << 10)


def test_commit_of_a_checkout(tmp_path):
    def git(*args):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *identity, *args], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert machine.commit(package) is None
    git("init")
    assert machine.commit(package) is None
    git("add", ".")
    git("commit", "-m", "first")
    clean = machine.commit(package)
    assert len(clean) == 12
    (tmp_path / "untracked").write_text("")
    assert machine.commit(package) == clean
    (package / "__init__.py").write_text("changed")
    assert machine.commit(package) == f"{clean}+dirty"


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with machine.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with machine.threads(None):
        assert torch.get_num_threads() == before


def test_peak_memory_counts_what_lives_at_once():
    held = torch.zeros(1000)

    def run():
        for _ in range(3):
            held.neg()
        return held.neg().neg()

    assert peak_bytes(run, CPU) == 2 * 4000
    assert peak_bytes(held.neg_, CPU) == 0
