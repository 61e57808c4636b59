"""`statefilm doctor`: what this machine offers and whether the installation is whole."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from statefilm import __version__
from statefilm.cli import options
from statefilm.cli.errors import FAILED, OK, one_line
from statefilm.cli.memory import available_memory

PACKAGES = [
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
    "av",
    "pydantic",
]


@dataclass(frozen=True)
class Check:
    """One line of the report; `ok` False makes the command fail."""

    name: str
    value: str
    ok: bool = True


def doctor(as_json: options.Json = False, verbose: options.Verbose = False) -> int:
    """Check the installation and the machine.

    Versions, devices, memory, disk, kernels, codecs and the bundled models.
    """
    checks = examine()
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
    else:
        for check in checks:
            typer.echo(f"{'ok ' if check.ok else 'BAD'} {check.name:<18}{check.value}")
    return OK if all(check.ok for check in checks) else FAILED


def examine() -> list[Check]:
    """All checks, in the order they are printed."""
    checks = [
        Check("statefilm", __version__),
        Check("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        *map(_package, PACKAGES),
    ]
    parts: list[tuple[str, Callable[[], str]]] = [
        ("devices", _devices),
        ("threads", _threads),
        ("memory", _memory),
        ("disk", _disk),
        ("kernels", _kernels),
        ("video codecs", _codecs),
        ("compiler", _compiler),
    ]
    checks += [_try(name, check) for name, check in parts]
    from statefilm.pipelines import bundled_models

    models = bundled_models()
    if not models:
        checks.append(Check("models", "none bundled", ok=False))
    return checks + [_try(f"model {name}", partial(_model, name)) for name in models]


def _try(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, check())
    except Exception as error:
        return Check(name, one_line(error), ok=False)


def _package(name: str) -> Check:
    try:
        return Check(name, version(name))
    except PackageNotFoundError:
        return Check(name, "not installed", ok=False)


def _devices() -> str:
    import torch

    found = ["cpu " + torch.backends.cpu.get_cpu_capability()]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {card.name}, {card.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return "; ".join(found)


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} of {os.cpu_count()} processors"


def _memory() -> str:
    free = available_memory()
    return "unknown" if free is None else f"{free / 2**30:.1f} GiB available"


def _disk() -> str:
    usage = shutil.disk_usage(Path.cwd())
    return f"{usage.free / 2**30:.1f} GiB free in {Path.cwd()}"


def _kernels() -> str:
    """Run each backend of the scan once, where it can, and compare it with the reference."""
    import torch

    from statefilm.ops import quasiseparable
    from statefilm.ops.quasiseparable import BACKENDS

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 70, 2, 16, generator=generator)
    B, C = torch.randn(2, 1, 70, 2, 1, 16, generator=generator)
    dt = torch.rand(1, 70, 2, 2, generator=generator)
    inputs = (x, dt, -torch.ones(2), B, C)
    expected = quasiseparable(*inputs, backend="reference")
    errors, missing = {}, []
    for name in BACKENDS:
        device = "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"
        try:
            y = quasiseparable(*(t.to(device) for t in inputs), backend=name)
        except ValueError as error:
            missing.append(f"no {name}: it {str(error).partition(' backend ')[2]}")
        else:
            errors[name] = (y.cpu() - expected).abs().max().item()
    worst = max(errors.values())
    if not worst < 1e-4:
        raise RuntimeError(f"{', '.join(errors)} differ by {worst:.1e}")
    return "; ".join([f"{', '.join(errors)} (agree within {worst:.0e})", *missing])


def _codecs() -> str:
    import av

    wanted = {"libx264": "h264", "libvpx-vp9": "vp9", "libsvtav1": "av1"}
    found = [label for name, label in wanted.items() if name in av.codecs_available]
    if "h264" not in found:
        raise RuntimeError("no H.264 encoder in PyAV; videos cannot be written")
    return ", ".join(found)


def _compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++") or shutil.which("cl")
    return found or "no C++ compiler; --compile needs one on a CPU"


def _model(name: str) -> str:
    """Load a bundled model, which checks its files and weights."""
    from statefilm.pipelines import load_pipeline, resolve_model
    from statefilm.pipelines.checkpoint import model_hash

    pipeline = load_pipeline(name, device="cpu")
    folder = resolve_model(name)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    parameters = sum(p.numel() for p in pipeline.denoiser.parameters())
    digest = model_hash(folder)[:12]
    return f"whole, {parameters / 1e6:.1f}M parameters, {size / 2**20:.1f} MiB, sha256 {digest}"
