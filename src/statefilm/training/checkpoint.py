"""Checkpoints: written whole or not at all, safetensors for tensors and JSON for the rest."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from statefilm.errors import UsageError
from statefilm.models.weights import read_tensors

__all__ = [
    "Snapshot",
    "checkpoint_folders",
    "find_snapshot",
    "load_parameters",
    "read_snapshot",
    "replace_folder",
    "save_snapshot",
]

logger = logging.getLogger(__name__)

PARTS = ("model", "ema", "optimizer")
STEP_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a run needs to go on: tensors of each of `PARTS` by name, and numbers as JSON."""

    tensors: Mapping[str, dict[str, Tensor]]
    state: dict[str, Any]


def checkpoint_folders(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def save_snapshot(run: Path, snapshot: Snapshot, keep_last: int) -> Path:
    """Write `run/checkpoints/step-N` and remove all but the last `keep_last`."""

    def write(folder: Path) -> None:
        for part in PARTS:
            tensors = {k: v.detach().contiguous() for k, v in snapshot.tensors[part].items()}
            save_file(tensors, folder / f"{part}.safetensors")
        text = json.dumps(snapshot.state, indent=1)
        (folder / "state.json").write_text(text, "utf-8")

    target = run / "checkpoints" / f"step-{snapshot.state['step']:08d}"
    replace_folder(target, write)
    for old in checkpoint_folders(run)[:-keep_last]:
        shutil.rmtree(old)
    return target


def read_snapshot(folder: Path) -> Snapshot:
    """A checkpoint from its folder.

    Raises:
        FileNotFoundError: no such folder.
        UsageError: a part is missing, truncated or holds NaN; names the file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such checkpoint: {folder}")
    file = folder / "state.json"
    try:
        state = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: damaged or missing ({error})") from None
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise UsageError(f"{file}: names no step")
    return Snapshot(
        {part: dict(read_tensors(folder / f"{part}.safetensors")) for part in PARTS}, state
    )


def find_snapshot(run: Path, resume: str | os.PathLike[str]) -> Snapshot | None:
    """The state to start from.

    Args:
        run: the run folder.
        resume: "auto" takes the newest whole checkpoint of the run and warns of damaged ones,
            None when there is none; "none" wants a fresh run; else the folder of a checkpoint.

    Raises:
        FileExistsError: "none", and the run has begun.
        FileNotFoundError, UsageError: no checkpoint that is whole; or later ones would be lost.
    """
    folders = checkpoint_folders(run)
    if resume == "none":
        if folders or (run / "recipe.yaml").exists():
            raise FileExistsError(f"{run} holds a run: --resume auto goes on with it")
        return None
    if resume != "auto":
        snapshot = read_snapshot(Path(resume))
        if folders and int(folders[-1].name.removeprefix("step-")) > snapshot.state["step"]:
            raise UsageError(
                f"{run} has later checkpoints (up to {folders[-1].name}): "
                f"resume {resume} into another output folder"
            )
        return snapshot
    for folder in reversed(folders):
        try:
            return read_snapshot(folder)
        except UsageError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
    if folders:
        raise UsageError(f"{run / 'checkpoints'}: no checkpoint is whole")
    return None


def load_parameters(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's model part into the parameters of a module.

    Raises:
        UsageError: another set of parameters, or another shape; names the first.
    """
    parameters = dict(module.named_parameters())
    for name in sorted(parameters.keys() ^ tensors.keys()):
        side = "lacks" if name in parameters else "has the unknown"
        raise UsageError(f"the checkpoint does not fit the recipe: it {side} parameter {name!r}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise UsageError(
                    f"the checkpoint does not fit the recipe: {name!r} has shape "
                    f"{tuple(tensors[name].shape)}, the model's is {tuple(parameter.shape)}"
                )
            parameter.copy_(tensors[name])


def replace_folder(target: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a new folder, then put it in the place of `target`."""
    part, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "old"))
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    for path in (*part.rglob("*"), part):
        _flush(path)
    if target.exists():
        target.rename(old)
    part.rename(target)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the system put a file or a folder's list of names on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
