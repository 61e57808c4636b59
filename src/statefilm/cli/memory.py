"""Whether a run fits into memory, before it starts, and what would fit when it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from statefilm.cli.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from statefilm.cli.request import Settings
    from statefilm.pipelines import LocalPipeline


# Noise, latents, their prediction and what the sampler makes of it, and the frames at the end.
CLIP_COPIES = 6


def available_memory(device: torch.device | None = None) -> int | None:
    """Bytes that a program may still take on a device, by default the CPU; None if unknown."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    if device is not None and device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def estimate(pipe: LocalPipeline, settings: Settings, batch: int) -> int:
    """Bytes that denoising a batch takes beside the weights, right within a factor of about 2."""
    forwards = batch if settings.guidance_scale == 1 else 2 * batch
    at_once = pipe.activation_bytes(settings.frames_at_once, settings.height, settings.width)
    return forwards * at_once + batch * whole_clip(pipe, settings)


def whole_clip(pipe: LocalPipeline, settings: Settings) -> int:
    """Bytes of what is held of a clip that is seen in windows: copies of all its frames."""
    if settings.frames_at_once == settings.num_frames:
        return 0
    channels = 3
    pixels = settings.num_frames * settings.height * settings.width
    return CLIP_COPIES * 4 * channels * pixels


def check_memory(pipe: LocalPipeline, settings: Settings, batch: int) -> None:
    """Refuse what surely does not fit, since some systems kill a program that tries.

    Raises:
        OutOfMemory: half the estimate is more than there is.
    """
    free = available_memory(pipe.device)
    needed = estimate(pipe, settings, batch)
    if free is not None and needed / 2 > free:
        raise OutOfMemory(
            f"{settings} needs about {needed / 2**30:,.1f} GiB, {free / 2**30:.1f} GiB are free",
            what_fits(pipe, settings, batch),
        )


def what_fits(pipe: LocalPipeline, settings: Settings, batch: int) -> str:
    """A hint: the batch, then the frames at once, then the sides halved, until it fits."""
    frame_step, height_step, width_step = pipe.size_steps
    free = available_memory(pipe.device)
    flags: dict[str, str] = {}
    while not flags or (free is not None and estimate(pipe, settings, batch) > free):
        if batch > 1:
            batch //= 2
            flags["--batch-size"] = str(batch)
        elif free is not None and whole_clip(pipe, settings) > free and settings.num_frames > 1:
            settings = replace(settings, num_frames=settings.num_frames // 2)
            flags["--num-frames"] = str(settings.num_frames)
        elif pipe.takes_windows and settings.frames_at_once > 1:
            window = settings.frames_at_once // 2
            settings = replace(settings, window=window)
            flags |= {"--window": str(window), "--overlap": str(window // 2)}
        elif not pipe.takes_windows and settings.num_frames > 1 + frame_step:
            frames = 1 + (settings.num_frames - 1) // (2 * frame_step) * frame_step
            settings = replace(settings, num_frames=frames)
            flags["--num-frames"] = str(frames)
        elif settings.height > height_step or settings.width > width_step:
            height = max(1, settings.height // (2 * height_step)) * height_step
            width = max(1, settings.width // (2 * width_step)) * width_step
            settings = replace(settings, height=height, width=width)
            flags["--size"] = f"{width}x{height}"
        else:
            return "not even the smallest size fits; free some memory"
    return "try " + " ".join(f"{flag} {value}" for flag, value in flags.items())
