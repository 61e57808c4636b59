"""Where a file came from: written into PNG and MP4, read back, and turned into a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import PIL.Image
from PIL.PngImagePlugin import PngInfo

import statefilm
from statefilm.errors import UsageError

__all__ = [
    "as_args",
    "make_provenance",
    "parameters_text",
    "png_info",
    "read_provenance",
    "sidecar_path",
]

KEY = "statefilm"


def make_provenance(
    *,
    model: str,
    model_hash: str,
    prompt: str,
    seed: int,
    steps: int,
    guidance_scale: float,
    sampler: str,
    height: int,
    width: int,
    dtype: str,
    device: str,
    shift: float | None = None,
    negative_prompt: str = "",
    num_frames: int = 1,
    fps: float | None = None,
) -> dict[str, Any]:
    """What made one file; holds no time of day, so that making it again gives the same bytes."""
    return {"version": statefilm.__version__, **locals()}


def as_args(meta: Mapping[str, Any]) -> list[str]:
    """The command line, as argv, that makes the file again.

    Raises:
        UsageError: a field is missing.
    """
    try:
        is_video = meta.get("fps") is not None
        args = ["statefilm", "video" if is_video else "image"]
        starts_with_dash = meta["prompt"].startswith("-")
        args += [] if starts_with_dash or not meta["prompt"] else [meta["prompt"]]
        args += ["--model", meta["model"], "--seed", meta["seed"], "--steps", meta["steps"]]
        args += ["--guidance-scale", meta["guidance_scale"], "--sampler", meta["sampler"]]
        args += ["--shift", meta["shift"]] if meta.get("shift") is not None else []
        args += ["--height", meta["height"], "--width", meta["width"]]
        if is_video:
            args += ["--num-frames", meta["num_frames"], "--fps", meta["fps"]]
        for name in ("window", "overlap"):
            args += [f"--{name}", meta[name]] if name in meta else []
        args += ["--dtype", meta["dtype"], "--device", meta["device"]]
        # One word with "=", so that a text that starts with a dash stays a value.
        for name in ("negative_prompt", "label", "first_frames"):
            args += [f"--{name.replace('_', '-')}={meta[name]}"] if meta.get(name) else []
        args += ["--", meta["prompt"]] if starts_with_dash else []
        return [str(arg) for arg in args]
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"incomplete provenance, cannot tell the command ({error})") from None


def parameters_text(meta: Mapping[str, Any]) -> str:
    """The form that A1111's tools and galleries read from a PNG's `parameters` chunk."""
    settings = {
        "Steps": meta["steps"],
        "Sampler": meta["sampler"],
        "CFG scale": meta["guidance_scale"],
        "Seed": meta["seed"],
        "Size": f"{meta['width']}x{meta['height']}",
        "Model hash": meta["model_hash"][:10],
        "Model": meta["model"],
        "Version": f"statefilm {meta['version']}",
    }
    lines = [meta["prompt"]]
    if meta["negative_prompt"]:
        lines.append(f"Negative prompt: {meta['negative_prompt']}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def to_json(meta: Mapping[str, Any]) -> str:
    """One line of JSON, the same for the same fields."""
    return json.dumps(meta, ensure_ascii=False, sort_keys=True)


def png_info(meta: Mapping[str, Any]) -> PngInfo:
    """The text chunks for `PIL.Image.save(..., pnginfo=...)`."""
    info = PngInfo()
    info.add_text("parameters", parameters_text(meta))
    info.add_itxt(KEY, to_json(meta))
    return info


def sidecar_path(path: str | Path) -> Path:
    """The JSON file beside a video: `clip.mp4` has `clip.json`."""
    return Path(path).with_suffix(".json")


def read_provenance(path: str | Path) -> dict[str, Any]:
    """What made a PNG, an MP4 or the JSON beside one.

    Raises:
        FileNotFoundError: no such file.
        UsageError: another kind of file, or one that does not say.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"file not found: {path}")
    readers = {".png": _read_png, ".mp4": _read_mp4, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path}: provenance is read from {', '.join(readers)}")
    text = readers[path.suffix.lower()](path)
    try:
        meta = json.loads(text or "")
    except ValueError:
        meta = None
    if not isinstance(meta, dict) or "prompt" not in meta:
        raise UsageError(f"{path}: holds no provenance of statefilm")
    return meta


def _read_png(path: Path) -> str | None:
    try:
        with PIL.Image.open(path, formats=["PNG"]) as image:
            image.load()  # text chunks may come after the pixels
            text = image.info.get(KEY)
            return text if isinstance(text, str) else None
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: damaged PNG ({error})") from None


def _read_mp4(path: Path) -> str | None:
    try:
        with av.open(str(path), format="mp4") as container:
            tag = container.metadata.get("comment")
    except av.FFmpegError as error:
        raise UsageError(f"{path}: damaged MP4 ({error.strerror})") from None
    sidecar = sidecar_path(path)
    return tag or (_read_json(sidecar) if sidecar.is_file() else None)


def _read_json(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
