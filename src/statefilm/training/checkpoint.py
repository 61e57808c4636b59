"""Checkpoints: written whole or not at all, safetensors for tensors and JSON for the rest."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from statefilm.errors import UsageError
from statefilm.models.weights import read_tensors
from statefilm.training import recipe as recipes
from statefilm.training.parallel import Ranks
from statefilm.training.tensor_files import Rows, TensorFiles, fill, own_rows, write_tensors

__all__ = [
    "Saver",
    "Snapshot",
    "checkpoint_folders",
    "find_snapshot",
    "load_parameters",
    "read_snapshot",
    "replace_folder",
]

logger = logging.getLogger(__name__)

PARTS = ("model", "ema", "optimizer")
STEP_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a run needs to go on: tensors of each of `PARTS` by name, and numbers as JSON.

    Tensors may be sharded when it is written; what was read is `TensorFiles`.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]


def checkpoint_folders(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


class Saver:
    """Writes the checkpoints of a run; all its processes call it together.

    Args:
        run: the run folder, on a disk that all processes share.
        config: the recipe's section.
        ranks: the processes.
    """

    def __init__(self, run: Path, config: recipes.Checkpoint, ranks: Ranks) -> None:
        self.run, self.config, self.ranks = run, config, ranks
        self._pool = ThreadPoolExecutor(1) if config.background else None
        self._job: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, in the background where the recipe says so.

        Raises:
            OSError: this one, or the one before in the background, could not be written.
        """
        self.finish()
        parts = {
            part: own_rows(tensors, self.ranks, copy=self.config.background)
            for part, tensors in snapshot.tensors.items()
        }
        write = partial(
            _write, self.run, parts, dict(snapshot.state), self.config.keep_last, self.ranks
        )
        if self._pool is None:
            write()
        else:
            self._job = self._pool.submit(write)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if there is one; raises as `save`."""
        job, self._job = self._job, None
        if job is not None:
            job.result()


def _write(
    run: Path,
    parts: Mapping[str, Mapping[str, Rows]],
    state: dict[str, Any],
    keep_last: int,
    ranks: Ranks,
) -> Path:
    """A fresh folder, filled by all processes, is a checkpoint once rank 0 has renamed it."""
    target = run / "checkpoints" / f"step-{state['step']:08d}"

    def fill_folder() -> None:
        for name, rows in parts.items():
            write_tensors(_beside(target, "part"), name, rows, ranks)

    def complete() -> None:
        if not ranks.is_first:
            return
        (_beside(target, "part") / "state.json").write_text(json.dumps(state, indent=1), "utf-8")
        _put_in_place(target)
        # Later ones were passed over as damaged: they must not push out whole ones.
        earlier = [one for one in checkpoint_folders(run) if _step(one) <= state["step"]]
        for old in earlier[:-keep_last]:
            if _step(old) != state.get("best_step"):
                shutil.rmtree(old)

    with _clean_up(target, ranks.is_first):
        ranks.together(lambda: _make_fresh(target) if ranks.is_first else None)
        ranks.together(fill_folder)
        ranks.together(complete)
    return target


def read_snapshot(folder: Path, ranks: Ranks | None = None) -> Snapshot:
    """A checkpoint from its folder, whatever number of processes wrote it.

    Args:
        ranks: they share the reading of every tensor that finds damage.

    Raises:
        FileNotFoundError: no such folder.
        UsageError: a part is missing, truncated or holds NaN; names the file.
    """
    ranks = ranks or Ranks()
    if not folder.is_dir():
        raise FileNotFoundError(f"no such checkpoint: {folder}")
    file = folder / "state.json"
    try:
        state = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: damaged or missing ({error})") from None
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise UsageError(f"{file}: names no step")
    tensors = {part: TensorFiles(folder, part) for part in PARTS}
    files = [path for part in tensors.values() for path in part.files]
    for path in files[ranks.rank :: ranks.size]:
        for _ in read_tensors(path):
            pass
    return Snapshot(tensors, state)


def find_snapshot(
    run: Path, resume: str | os.PathLike[str], ranks: Ranks | None = None
) -> Snapshot | None:
    """The state to start from; the same on all processes, which call this together.

    Args:
        run: the run folder.
        resume: "auto" takes the newest whole checkpoint of the run and warns of damaged ones,
            None when there is none; "none" wants a fresh run; else the folder of a checkpoint.

    Raises:
        FileExistsError: "none", and the run has begun.
        FileNotFoundError, UsageError: no checkpoint that is whole; or later ones would be lost.
    """
    ranks = ranks or Ranks()
    folders = checkpoint_folders(run)
    newest = _step(folders[-1]) if folders else -1
    if not ranks.same(newest):
        raise UsageError(
            f"the processes see different checkpoints in {run}: give an --output on a disk that "
            "all of them share"
        )
    if resume == "none":
        if folders or (run / "recipe.yaml").exists():
            raise FileExistsError(f"{run} holds a run: --resume auto goes on with it")
        return None
    if resume != "auto":
        snapshot = _read_together(Path(resume), ranks)
        if newest > snapshot.state["step"]:
            raise UsageError(
                f"{run} has later checkpoints (up to {folders[-1].name}): "
                f"resume {resume} into another output folder"
            )
        return snapshot
    for folder in reversed(folders):
        try:
            return _read_together(folder, ranks)
        except UsageError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
    if folders:
        raise UsageError(f"{run / 'checkpoints'}: no checkpoint is whole")
    return None


def _read_together(folder: Path, ranks: Ranks) -> Snapshot:
    """`read_snapshot`, which fails on all processes when it does on one."""
    error: Exception | None = None
    try:
        snapshot = read_snapshot(folder, ranks)
    except (UsageError, FileNotFoundError) as caught:
        error = caught
    if ranks.any(error is not None):
        raise error or UsageError(f"{folder}: another process found it damaged")
    return snapshot


def load_parameters(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's model part into the parameters of a module.

    Raises:
        UsageError: another set of parameters, or another shape; names the first.
    """
    parameters = dict(module.named_parameters())
    for name in sorted(parameters.keys() ^ tensors.keys()):
        side = "lacks" if name in parameters else "has the unknown"
        raise UsageError(f"the checkpoint does not fit the recipe: it {side} parameter {name!r}")
    for name, parameter in parameters.items():
        found = tensors.shape(name) if isinstance(tensors, TensorFiles) else tensors[name].shape
        if parameter.shape != found:
            raise UsageError(
                f"the checkpoint does not fit the recipe: {name!r} has shape "
                f"{tuple(found)}, the model's is {tuple(parameter.shape)}"
            )
        fill(parameter, tensors, name)


def replace_folder(target: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a new folder, then put it in the place of `target`.

    Raises:
        OSError: it could not be written, as on a full disk; `target` is as it was.
    """
    with _clean_up(target, True):
        _make_fresh(target)
        write(_beside(target, "part"))
        _put_in_place(target)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _make_fresh(target: Path) -> None:
    """An empty folder beside the target, without leftovers of an earlier attempt."""
    for suffix in ("part", "old"):
        shutil.rmtree(_beside(target, suffix), ignore_errors=True)
    _beside(target, "part").mkdir(parents=True)


def _put_in_place(target: Path) -> None:
    """The folder beside the target becomes the target, all of it on the disk."""
    part, old = _beside(target, "part"), _beside(target, "old")
    for path in (*part.rglob("*"), part):
        _flush(path)
    if target.exists():
        target.rename(old)
    part.rename(target)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _clean_up(target: Path, owner: bool) -> Iterator[None]:
    """Leave nothing half written, and name what was being written."""
    try:
        yield
    except BaseException as error:
        if owner:
            shutil.rmtree(_beside(target, "part"), ignore_errors=True)
        if isinstance(error, OSError | SafetensorError) and not isinstance(error, ConnectionError):
            reason = " ".join(str(error).split())
            raise OSError(
                f"{target} could not be written ({reason}); what was saved before is whole"
            ) from error
        raise


def _flush(path: Path) -> None:
    """Have the system put a file or a folder's list of names on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
