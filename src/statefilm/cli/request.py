"""One `image` or `video` command as data: its flags, its samples and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from statefilm.cli import outputs
from statefilm.cli.errors import CommandError
from statefilm.cli.first_frames import FirstFrames
from statefilm.cli.prompts import MAX_SEED, Prompt


@dataclass(frozen=True)
class Request:
    """The flags of one `image` or `video` command; None is left to the model."""

    kind: str
    model: str
    prompts: Sequence[Prompt]
    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    shift: float | None = None
    seed: int | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    seconds: float | None = None
    fps: float | None = None
    window: int | None = None
    overlap: int | None = None
    first_frames: Path | None = None
    num: int = 1
    batch_size: int = 1
    grid: bool = False
    save_frames: bool = False
    strip: int | None = None
    preview: Path | None = None
    dtype: str = "auto"
    device: str = "auto"
    compile: bool = False
    output: str | None = None
    force: bool = False
    skip_existing: bool = False
    dry_run: bool = False

    @property
    def suffix(self) -> str:
        """Of the files that are written."""
        return ".png" if self.kind == "image" else ".mp4"

    def files_of(self, path: Path) -> list[Path]:
        """Everything that is written for a sample at `path`."""
        if self.kind == "image":
            return [path]
        frames = [path.with_suffix("")] if self.save_frames else []
        strip = [path.with_suffix(".png")] if self.strip else []
        return [path, path.with_suffix(".json"), *frames, *strip]


@dataclass(frozen=True)
class Sample:
    """One thing to make: what is asked for, and where it goes."""

    index: int
    prompt: str
    negative_prompt: str
    label: str | None
    seed: int
    path: Path


@dataclass(frozen=True)
class Settings:
    """How every sample is made, nothing left open."""

    height: int
    width: int
    num_frames: int
    fps: float
    steps: int
    guidance_scale: float
    sampler: str
    shift: float | None = None
    window: int | None = None
    overlap: int | None = None
    first_frames: FirstFrames | None = None

    @property
    def frames_at_once(self) -> int:
        """Frames that the model sees in one forward."""
        return min(self.num_frames, self.window or self.num_frames)

    def __str__(self) -> str:
        clip = f" x {self.num_frames} frames" if self.num_frames > 1 else ""
        if self.frames_at_once < self.num_frames:
            clip += f" in windows of {self.window}"
        shift = "" if self.shift in (None, 1) else f" with shift {self.shift:g}"
        return (
            f"{self.width}x{self.height}{clip}, {self.steps} steps of {self.sampler}{shift}, "
            f"guidance {self.guidance_scale:g}"
        )


def parse_size(size: str | None, height: int | None, width: int | None) -> tuple[int | None, ...]:
    """(height, width) from `--size WxH` or the two single flags.

    Raises:
        CommandError: both forms at once, or a size that is not WIDTHxHEIGHT.
    """
    if size is None:
        return height, width
    if height is not None or width is not None:
        raise CommandError("--size and --height or --width at once", "give one of them")
    parts = size.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise CommandError(f"size {size!r} is not WIDTHxHEIGHT", "for example 64x64")
    return int(parts[1]), int(parts[0])


def plan_samples(request: Request, seed: int) -> list[Sample]:
    """Each prompt or label `num` times; sample i has seed + i, or its own line's seed + j."""
    asked = [(prompt, j) for prompt in request.prompts for j in range(request.num)]
    seeds = [
        seed + i if prompt.seed is None else prompt.seed + j for i, (prompt, j) in enumerate(asked)
    ]
    if max(seeds) > MAX_SEED:
        raise CommandError(f"seed {max(seeds)} of the last sample is above {MAX_SEED}")
    texts = [prompt.text or prompt.label or "" for prompt, _ in asked]
    if request.grid:
        paths = outputs.plan(request.output, request.suffix, texts[:1], seeds[:1]) * len(asked)
    else:
        paths = outputs.plan(request.output, request.suffix, texts, seeds)
    common = request.negative_prompt or ""
    negatives = [common if p.negative is None else p.negative for p, _ in asked]
    return [
        Sample(i, prompt.text, negatives[i], prompt.label, seeds[i], paths[i])
        for i, (prompt, _) in enumerate(asked)
    ]
