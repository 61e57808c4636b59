"""What a measurement ran on: device, versions, commit, and the rates of the machine itself."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import statefilm
from statefilm.evaluation.speed.floors import Rates
from statefilm.evaluation.speed.timing import Clock, seconds_of, synchronizer

# Of a CPU's instruction sets, those that decide about the speed of matrix products.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
MATMUL_SIZES = (256, 512, 1024, 2048, 4096, 8192)
MATMUL_SECONDS = 0.02  # a product that takes so long is large enough
COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}  # several times the last cache
REPEATS = 5


def describe(device: torch.device, rates: Mapping[torch.dtype, Rates] | None = None) -> dict:
    """Where and with what a measurement was made, as plain data.

    Args:
        rates: of each dtype, as `measure_rates` gives them.
    """
    model, flags = _cpu()
    return {
        "statefilm": statefilm.__version__,
        "commit": commit(Path(statefilm.__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": model,
        "cpu_flags": flags,
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "rates": {name_of(dtype): asdict(rate) for dtype, rate in (rates or {}).items()},
    }


def line(machine: Mapping[str, Any]) -> str:
    """The description in one line, for the head of a table."""
    flags = " ".join(machine["cpu_flags"]) or "no AVX2"
    parts = [
        f"statefilm {machine['statefilm']}"
        + (f" at {machine['commit']}" if machine["commit"] else ""),
        f"torch {machine['torch']}",
        f"triton {machine['triton']}" if machine["triton"] else "no triton",
        machine["gpu"] or f"{machine['cpu']} ({flags})",
        f"{machine['threads']} of {machine['processors']} threads",
    ]
    for dtype, rate in machine["rates"].items():
        parts.append(
            f"{dtype} {_significant(rate['matmul'] / 1e12)} TFLOP/s in matrix products, "
            f"{_significant(rate['copy'] / 1e9)} GB/s in copies"
        )
    return "; ".join(parts)


def measure_rates(
    device: torch.device, dtype: torch.dtype, clock: Clock = time.perf_counter
) -> Rates:
    """The best of some large matrix products and copies of random numbers.

    The products grow until one takes long enough; bytes are counted as read and as written.
    """
    synchronize = synchronizer(device)
    generator = torch.Generator(device).manual_seed(0)

    def best(run: Any) -> float:
        seconds_of(run, 1, clock, synchronize)
        return min(seconds_of(run, 1, clock, synchronize) for _ in range(REPEATS))

    matmul = 0.0
    for size in MATMUL_SIZES:
        left, right = (
            torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)
        )
        out = torch.empty_like(left)
        seconds = best(lambda a=left, b=right, y=out: torch.matmul(a, b, out=y))
        matmul = max(matmul, 2 * size**3 / seconds)
        if seconds > MATMUL_SECONDS:
            break
    count = COPY_BYTES.get(device.type, 1 << 27) // dtype.itemsize
    source = torch.randn(count, device=device, generator=generator).to(dtype)
    target = torch.empty_like(source)
    seconds = best(lambda: target.copy_(source))
    return Rates(matmul, 2 * count * dtype.itemsize / seconds)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with that many threads of torch; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def commit(folder: Path) -> str | None:
    """The git commit of the checkout that holds `folder`, "+dirty" where files differ from it."""
    try:
        if not _git(folder, "ls-files", "__init__.py"):
            return None  # a checkout of something else, with the package installed inside
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return _git(folder, "rev-parse", "--short=12", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def name_of(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _git(folder: Path, *args: str) -> str:
    command = ["git", "-C", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu() -> tuple[str, list[str]]:
    """The CPU's name and those of its flags that matter."""
    try:
        text = Path("/proc/cpuinfo").read_text("ascii", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = [line.partition(":") for line in text.splitlines()]
    found = {key.strip(): value.strip() for key, _, value in reversed(fields)}
    present = set(found.get("flags", "").split())
    name = found.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in CPU_FLAGS if flag in present]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _significant(number: float) -> str:
    return f"{number:.3g}"
