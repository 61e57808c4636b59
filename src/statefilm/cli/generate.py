"""What `image` and `video` share: prompts to samples, samples to files, failures to exit codes."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statefilm.cli import outputs
from statefilm.cli.console import Console
from statefilm.cli.errors import (
    OK,
    PARTIAL,
    CommandError,
    OutOfMemory,
    is_out_of_memory,
    one_line,
)
from statefilm.cli.memory import check_memory, what_fits
from statefilm.cli.request import Request, Sample, Settings, plan_samples
from statefilm.cli.settings import conditions, resolve_settings
from statefilm.cli.writing import Preview, Writer

if TYPE_CHECKING:
    from PIL.Image import Image

    from statefilm.pipelines import LocalPipeline


def generate(request: Request, console: Console) -> int:
    """Make all samples of a request and write them.

    Returns:
        The exit code: 0, or 3 when some of several samples failed.

    Raises:
        UsageError: bad input, found before anything is made.
        OutOfMemory: it does not fit; with a hint of what would.
        Exception: what stopped the only sample, or the last of all when every one failed.
    """
    seed = secrets.randbelow(2**32) if request.seed is None else request.seed
    samples = plan_samples(request, seed)
    wanted = _without_existing(samples, request)
    if request.preview is not None:
        _check_paths([request.preview], request)
    if not wanted:
        console.note("all of it exists; nothing to do")
        return OK

    from statefilm.pipelines import load_pipeline

    pipe = load_pipeline(request.model, request.dtype, request.device)
    settings = resolve_settings(pipe, request, wanted)
    check_memory(pipe, settings, min(request.batch_size, len(wanted)))
    _warn_unknown_words(pipe, wanted, console)
    if request.seed is None:
        print(f"seed {seed}", file=sys.stderr)  # even when quiet: it is known nowhere else
    else:
        console.note(f"seed {seed}")
    if request.dry_run:
        console.note(f"would make {len(wanted)} x {settings}")
        for path in dict.fromkeys(sample.path for sample in wanted):
            console.result(path, dry_run=True)
        return OK
    if request.compile:
        _compile(pipe)
    return _make(pipe, request, settings, wanted, console)


def _without_existing(samples: list[Sample], request: Request) -> list[Sample]:
    """The samples to make: all, those whose file is not there, or an error when one is."""
    if request.skip_existing:
        samples = [sample for sample in samples if not sample.path.exists()]
    files = (path for sample in samples for path in request.files_of(sample.path))
    _check_paths(list(dict.fromkeys(files)), request)
    return samples


def _check_paths(paths: Sequence[Path], request: Request) -> None:
    if not request.force:
        outputs.refuse_existing(paths)
    outputs.check_writable(paths)


def _warn_unknown_words(pipe: LocalPipeline, samples: Sequence[Sample], console: Console) -> None:
    from statefilm.models.text import unknown_words

    if pipe.tokenizer is None:
        return
    for text in dict.fromkeys(t for s in samples for t in (s.prompt, s.negative_prompt) if t):
        words = unknown_words(pipe.tokenizer, text)
        if words:
            console.warn(f"the model does not know {', '.join(map(repr, words))} in {text!r}")


def _compile(pipe: LocalPipeline) -> None:
    from statefilm.pipelines.loading import can_compile

    if not can_compile(pipe.device):
        raise CommandError("--compile needs a C++ compiler, found none", "leave --compile out")
    pipe.denoiser.compile_repeated_blocks()


def _make(
    pipe: LocalPipeline,
    request: Request,
    settings: Settings,
    samples: Sequence[Sample],
    console: Console,
) -> int:
    """Denoise batch by batch and write each batch before the next begins."""
    writer = Writer(request, settings, describe_run(pipe, request, settings), console)
    failed: list[tuple[Sample, Exception]] = []
    size = request.batch_size
    batches = [samples[start : start + size] for start in range(0, len(samples), size)]
    for number, batch in enumerate(batches, start=1):
        label = f"batch {number} of {len(batches)}" if len(batches) > 1 else None
        pipe.set_progress_bar_config(disable=not console.progress, desc=label)
        try:
            clips = _denoise(pipe, settings, batch, request)
        except Exception as error:
            if is_out_of_memory(error):
                hint = what_fits(pipe, settings, len(batch))
                raise OutOfMemory(one_line(error), hint) from error
            failed += [(sample, error) for sample in batch]
            continue
        for sample, clip in zip(batch, clips, strict=True):
            try:
                writer.add(sample, clip)
            except Exception as error:
                failed.append((sample, error))
    if len(failed) == len(samples):
        raise failed[-1][1]
    writer.finish()
    for sample, reason in failed:
        print(f"failed: {sample.path} (seed {sample.seed}): {one_line(reason)}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} of {len(samples)} samples failed", file=sys.stderr)
    return PARTIAL if failed else OK


def describe_run(pipe: LocalPipeline, request: Request, settings: Settings) -> dict[str, Any]:
    """What all files of a command share in their provenance."""
    from statefilm.pipelines import resolve_model
    from statefilm.pipelines.checkpoint import model_hash

    return {
        "model": request.model,
        "model_hash": model_hash(resolve_model(request.model)),
        "steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "sampler": settings.sampler,
        "shift": settings.shift,
        "height": settings.height,
        "width": settings.width,
        "num_frames": settings.num_frames,
        "fps": settings.fps if request.kind == "video" else None,
        "dtype": str(pipe.denoiser.dtype).removeprefix("torch."),
        "device": str(pipe.device),
    }


def _denoise(
    pipe: LocalPipeline, settings: Settings, batch: Sequence[Sample], request: Request
) -> list[list[Image]]:
    """The frames of each sample of a batch."""
    import torch

    preview: dict[str, Any] = {}
    if request.preview is not None:
        preview = {
            "callback_on_step_end": Preview(request.preview, every=max(1, settings.steps // 10)),
            "callback_on_step_end_tensor_inputs": ["denoised"],
        }
    output: Any = pipe(
        **conditions(pipe, settings, batch),
        height=settings.height,
        width=settings.width,
        num_frames=settings.num_frames,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        sampler=settings.sampler,
        shift=settings.shift,
        generator=[torch.Generator().manual_seed(sample.seed) for sample in batch],
        **preview,
    )
    return output.frames
