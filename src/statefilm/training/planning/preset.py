"""The plan of a preset: a fresh denoiser on latents and text states that were made before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import ValidationError

from statefilm.errors import UsageError, check_stepped, suggest
from statefilm.models import UNET_PRESETS, build
from statefilm.training.fields import Count, Section
from statefilm.training.loading import apply_changes
from statefilm.training.planning.layout import layout_of
from statefilm.training.planning.plan import Hardware, Plan, Planner, Settings
from statefilm.training.planning.shells import preset_shell
from statefilm.training.recipe import Optimizer, Parallel
from statefilm.training.sources import Size

__all__ = ["PresetRun", "plan_preset", "read_preset_run"]

VAE_FACTORS = (4, 8, 8)  # frames, rows and columns of a latent, where a preset works on latents


class PresetRun(Section):
    """What a plan of a preset may change. Sizes are pixels; null is what suits the preset.

    `batch_size` is of a step on all devices; null is one sample a process.
    """

    num_frames: Count | None = None
    height: Count | None = None
    width: Count | None = None
    batch_size: Count | None = None
    text_tokens: Count = 128
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False
    accumulate: Count = 1
    parallel: Parallel = Parallel(replicate=1, shard=None)
    optimizer: Optimizer = Optimizer()


def plan_preset(preset: str, hardware: Hardware, run: PresetRun) -> Plan:
    """The plan of a preset's training step.

    Args:
        preset: a name that `models.build` knows.
        hardware: what there is.
        run: from `read_preset_run`.

    Raises:
        UsageError: the sizes do not suit the preset, or the settings the devices.
    """
    layout = layout_of(run.parallel, hardware.devices)
    settings = Settings(layout, run.accumulate, run.gradient_checkpointing)
    shell = preset_shell(
        preset,
        *_sizes(preset, run),
        batch_size=run.batch_size or layout.sample_parts * run.accumulate,
        text_tokens=run.text_tokens,
        precision=run.precision,
    )
    return Planner(shell, run.optimizer, hardware, settings).plan(preset, None)


def read_preset_run(changes: Sequence[str] = ()) -> PresetRun:
    """The defaults with changes such as "height=512" or "optimizer.name=muon".

    Raises:
        UsageError: an unknown key or a bad value, in one line.
    """
    fields: dict[str, Any] = {}
    apply_changes(fields, changes)
    try:
        return PresetRun.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise suggest(key, PresetRun.model_fields, "key") from None
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        raise UsageError(f"{key} = {first['input']!r:.60}: {message}") from None


def _sizes(preset: str, run: PresetRun) -> tuple[Size, Size]:
    """Frames, heights and widths in pixels, and of what the denoiser takes."""
    with torch.device("meta"):
        model: Any = build(preset)
    if preset in UNET_PRESETS:
        sizes, steps, factors = (16, 64, 64), (1, model.size_step, model.size_step), (1, 1, 1)
    else:
        in_pixels = model.config.in_channels == 3
        sizes = (1, 64, 64) if in_pixels else (1, 1024, 1024)
        factors = (1, 1, 1) if in_pixels else VAE_FACTORS
        patch = model.config.patch_size
        steps = tuple(f * p for f, p in zip(factors, patch, strict=True))
    given = zip((run.num_frames, run.height, run.width), sizes, strict=True)
    frames, height, width = (size if value is None else value for value, size in given)
    check_stepped("num_frames", frames, steps[0], offset=1)
    check_stepped("height", height, steps[1])
    check_stepped("width", width, steps[2])
    latents = 1 + (frames - 1) // factors[0], height // factors[1], width // factors[2]
    return (frames, height, width), latents
