"""What a command leaves open filled from the model's defaults, and all of it checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from statefilm.cli.errors import CommandError
from statefilm.cli.first_frames import read_first_frames
from statefilm.cli.options import value_or
from statefilm.cli.request import Request, Sample, Settings

if TYPE_CHECKING:
    from statefilm.pipelines import LocalPipeline


def resolve_settings(pipe: LocalPipeline, request: Request, samples: Sequence[Sample]) -> Settings:
    """How all samples of a request are made.

    Raises:
        UsageError: what the model does not make or read, or a size, step count, sampler, label or
            first frames that it cannot take.
    """
    from statefilm.pipelines.sampling import default_sampler, make_scheduler

    _check_kind(pipe, request)
    _check_conditions(pipe, request, samples)
    config = pipe.config
    first = None if request.first_frames is None else read_first_frames(request.first_frames)
    fps = float(value_or(request.fps, config.default_fps))
    num_frames = _frames(pipe, request, fps)
    # Without a prompt or a label there is nothing to guide by.
    guided = any(sample.prompt or sample.label is not None for sample in samples)
    own = pipe.default_size(num_frames)
    height, width = value_or(request.height, own[0]), value_or(request.width, own[1])
    settings = Settings(
        height=height,
        width=width,
        num_frames=num_frames,
        fps=fps,
        steps=value_or(request.steps, config.default_steps),
        guidance_scale=value_or(
            request.guidance_scale, pipe.default_guidance(num_frames) if guided else 1.0
        ),
        sampler=value_or(request.sampler, default_sampler(pipe.scheduler)),
        shift=value_or(request.shift, pipe.default_shift(num_frames, height, width)),
        window=request.window,
        overlap=request.overlap,
        first_frames=first,
    )
    _check_frame_size(pipe, settings)
    make_scheduler(pipe.scheduler, settings.sampler, settings.steps, settings.shift)
    pipe.check_inputs(
        height=settings.height,
        width=settings.width,
        num_frames=settings.num_frames,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        **conditions(pipe, settings, samples),
    )
    return settings


def conditions(
    pipe: LocalPipeline, settings: Settings, samples: Sequence[Sample]
) -> dict[str, Any]:
    """What a call and its checks read beside sizes, of all that this kind of model takes."""
    texts = samples if pipe.reads_text else []
    given: dict[str, Any] = {
        "prompt": [sample.prompt for sample in texts] or None,
        "negative_prompt": [sample.negative_prompt for sample in texts] or None,
    }
    labels = [sample.label for sample in samples if sample.label is not None]
    if labels:
        given["class_labels"] = labels
    if not texts and not labels:
        given["num_videos_per_prompt"] = len(samples)
    if pipe.takes_windows:
        first = settings.first_frames
        given |= {"window": settings.window, "overlap": settings.overlap}
        given["frames"] = None if first is None else first.images
    return given


def _check_kind(pipe: LocalPipeline, request: Request) -> None:
    """Refuse what this kind of model does not make, and flags that it does not know."""
    if request.kind not in pipe.kinds:
        kind = pipe.kinds[0]
        raise CommandError(f"{request.model} makes no {request.kind}s", f"try statefilm {kind}")
    flags = {
        "--window": request.window,
        "--overlap": request.overlap,
        "--first-frames": request.first_frames,
    }
    given = [flag for flag, value in flags.items() if value is not None]
    if given and not pipe.takes_windows:
        raise CommandError(f"{given[0]} is for video U-Nets, {request.model} is none")


def _check_conditions(pipe: LocalPipeline, request: Request, samples: Sequence[Sample]) -> None:
    """Refuse prompts and labels that the model does not read, and a lack of those it needs."""
    if pipe.num_classes is None and any(sample.label is not None for sample in samples):
        raise CommandError(f"{request.model} has no classes", "leave --label out")
    if pipe.reads_text:
        if not all(sample.prompt for sample in samples):
            raise CommandError(
                "no prompt", "give one in quotes, with -p, or a file with --prompts-file"
            )
    elif any(sample.prompt or sample.negative_prompt for sample in samples):
        instead = "" if pipe.num_classes is None else ", --label chooses a class"
        raise CommandError(f"{request.model} reads no text", f"leave prompts out{instead}")


def _check_frame_size(pipe: LocalPipeline, settings: Settings) -> None:
    first = settings.first_frames
    if first is None or first.images[0].size == (settings.width, settings.height):
        return
    width, height = first.images[0].size
    _, height_step, width_step = pipe.size_steps
    hint = f"--size {width}x{height} makes a clip of their size"
    if width % width_step or height % height_step:
        hint = f"widths are multiples of {width_step} and heights of {height_step}: crop the frames"
    raise CommandError(
        f"{first.path}: frames of {width}x{height}, the clip is {settings.width}x{settings.height}",
        hint,
    )


def _frames(pipe: LocalPipeline, request: Request, fps: float) -> int:
    """Frames of a sample; `--seconds` takes the nearest number that the model can make."""
    if request.kind == "image":
        return 1
    step = pipe.size_steps[0]
    if request.seconds is not None:
        return 1 + step * max(1, round((request.seconds * fps - 1) / step))
    frames: int = value_or(request.num_frames, pipe.config.default_num_frames)
    if frames == 1 and "image" in pipe.kinds:
        raise CommandError(f"num_frames 1 is an image; a video has {1 + step} or more")
    return frames
