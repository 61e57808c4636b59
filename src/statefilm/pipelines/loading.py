"""From a model's name or folder to a pipeline on a device, without any network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TypeVar, overload

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from statefilm.errors import UsageError, suggest
from statefilm.pipelines.base import LocalPipeline
from statefilm.pipelines.checkpoint import read_index
from statefilm.pipelines.hth import HTHPipeline
from statefilm.pipelines.video_diffusion import VideoDiffusionPipeline

__all__ = [
    "bundled_models",
    "can_compile",
    "load_pipeline",
    "pick_device",
    "pick_dtype",
    "resolve_model",
    "vae_folder",
]

AnyPipeline = TypeVar("AnyPipeline", bound=LocalPipeline)

PIPELINES: dict[str, type[LocalPipeline]] = {
    kind.__name__: kind for kind in (HTHPipeline, VideoDiffusionPipeline)
}
BUNDLED = Path(__file__).parents[1] / "bundled"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bundled_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(index.parent.name for index in BUNDLED.glob("*/model_index.json"))


def resolve_model(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a bundled model, of a pipeline, or of the pipeline inside a training run.

    Raises:
        FileNotFoundError: it looks like a path and is not there.
        UsageError: unknown name; the nearest is suggested.
    """
    name = os.fspath(name_or_folder)
    if name in bundled_models():
        return BUNDLED / name
    folder = Path(name)
    if folder.is_dir():
        inner = folder / "pipeline"
        is_run = not (folder / "model_index.json").is_file()
        return inner if is_run and (inner / "model_index.json").is_file() else folder
    if len(folder.parts) > 1 or folder.is_absolute():
        raise FileNotFoundError(f"model folder not found: {name}")
    raise suggest(name, bundled_models(), "model")


def vae_folder(name: str) -> Path:
    """The VAE's own folder, inside a run or a pipeline where `name` is one."""
    folder = Path(name)
    inner = (folder / "vae", folder / "pipeline" / "vae")
    return next((path for path in inner if (path / "config.json").is_file()), folder)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device by name; "auto" is the GPU where there is one.

    Raises:
        UsageError: no such device here.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {str(device)!r} is not available ({reason})") from None
    return chosen


def can_compile(device: torch.device) -> bool:
    """Whether there is what torch.compile builds with: on a CPU, a C++ compiler."""
    return device.type != "cpu" or any(map(shutil.which, ("g++", "clang++")))


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The compute dtype by name; "auto" is bfloat16 on a GPU and float32 elsewhere."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise suggest(dtype, ["auto", *DTYPES], "dtype")
    return DTYPES[dtype]


def pipeline_class(folder: Path) -> type[LocalPipeline]:
    """The class that a pipeline folder's `model_index.json` names.

    Raises:
        FileNotFoundError, UsageError: no such file, a damaged one, or none of `PIPELINES` in it.
    """
    name = read_index(folder).get("_class_name")
    if name is None:
        valid = " or ".join(PIPELINES)
        raise UsageError(f"{folder / 'model_index.json'} names no _class_name: {valid} is valid")
    if str(name) not in PIPELINES:
        raise suggest(str(name), PIPELINES, f"pipeline class in {folder / 'model_index.json'}")
    return PIPELINES[str(name)]


@overload
def load_pipeline(
    name_or_folder: str | os.PathLike[str],
    dtype: str | torch.dtype = ...,
    device: str | torch.device = ...,
) -> LocalPipeline: ...


@overload
def load_pipeline(
    name_or_folder: str | os.PathLike[str],
    dtype: str | torch.dtype = ...,
    device: str | torch.device = ...,
    *,
    kind: type[AnyPipeline],
) -> AnyPipeline: ...


def load_pipeline(
    name_or_folder: str | os.PathLike[str],
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    *,
    kind: type[LocalPipeline] = LocalPipeline,
) -> LocalPipeline:
    """A pipeline ready to call, of the class that its folder names.

    Args:
        name_or_folder: a bundled model's name, or a local folder.
        dtype: "auto", "float32", "bfloat16", "float16" or a torch dtype. In float16 the VAE stays
            in float32, where its activations do not overflow.
        device: "auto" or a torch device.
        kind: what the caller can use.

    Raises:
        FileNotFoundError, UsageError: see `resolve_model`, `pipeline_class` and
            `LocalPipeline.from_pretrained`; or the folder holds another kind.
    """
    folder = resolve_model(name_or_folder)
    found = pipeline_class(folder)
    if not issubclass(found, kind):
        raise UsageError(f"{folder} is a {found.__name__}: a {kind.__name__} is needed here")
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    vae_dtype = torch.float32 if dtype == torch.float16 else dtype
    with _quiet_loading():
        pipe = found.from_pretrained(folder, dtype={"default": dtype, "vae": vae_dtype})
    return pipe.to(device)


class _quiet_loading:
    """No progress bars of the libraries while weights are read."""

    def __enter__(self) -> None:
        self.diffusers = diffusers_logging.is_progress_bar_enabled()
        self.transformers = transformers_logging.is_progress_bar_enabled()
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        if self.diffusers:
            diffusers_logging.enable_progress_bar()
        if self.transformers:
            transformers_logging.enable_progress_bar()
