"""Long and continued clips: overlapping windows of frames, and given frames kept in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from diffusers import SchedulerMixin

from statefilm.errors import UsageError, check_stepped
from statefilm.pipelines.sampling import FLOW, prediction_type

__all__ = [
    "Window",
    "check_first_frames",
    "check_windows",
    "first_frames",
    "frame_windows",
    "hold",
    "noised",
    "read_frames",
]


class Window(NamedTuple):
    """A run of frames, and the share [frames] that its prediction has in each of them."""

    frames: slice
    share: torch.Tensor


def check_windows(window: int | None, overlap: int | None) -> None:
    """Raise `UsageError` unless such windows can cover a clip; see `frame_windows`."""
    if window is None:
        if overlap is not None:
            raise UsageError(f"overlap {overlap} needs a window: give window, or no overlap")
        return
    check_stepped("window", window, 1)
    if overlap is None:
        return
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < window:
        raise UsageError(f"overlap {overlap!r} is not a whole number from 0 to {window - 1}")


def frame_windows(num_frames: int, window: int | None, overlap: int | None = None) -> list[Window]:
    """Windows that cover all frames, each a fixed number of frames after the one before.

    Predictions of frames that several windows hold are averaged (MultiDiffusion, arXiv 2302.08113),
    here with weights that fall linearly towards both ends of a window, so that no seam shows.

    Args:
        num_frames: frames of the clip.
        window: frames that the model sees at once; None, or more than there are, sees all.
        overlap: frames that a window shares with the one before, at least; None is half of them.
            The last window ends with the clip and may share more.

    Returns:
        Windows in order; the shares of each frame add up to one.

    Raises:
        UsageError: a window below 1, or an overlap not below it.
    """
    check_windows(window, overlap)
    if window is None or window >= num_frames:
        return [Window(slice(0, num_frames), torch.ones(num_frames))]
    step = window - (window // 2 if overlap is None else overlap)
    starts = [*range(0, num_frames - window, step), num_frames - window]
    rising = torch.arange(1.0, window + 1)
    weight = torch.minimum(rising, rising.flip(0))
    total = torch.zeros(num_frames)
    for start in starts:
        total[start : start + window] += weight
    slices = [slice(start, start + window) for start in starts]
    return [Window(frames, weight / total[frames]) for frames in slices]


def noised(
    scheduler: SchedulerMixin, clean: torch.Tensor, noise: torch.Tensor, step: int
) -> torch.Tensor:
    """Clean frames at the noise level before step `step`; after the last step they are clean."""
    if step == len(scheduler.timesteps):
        return clean
    if prediction_type(scheduler) == FLOW:
        sigma = scheduler.sigmas[step].to(clean)
        return (1 - sigma) * clean + sigma * noise
    alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps[step].long().cpu()].to(clean)
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def hold(
    scheduler: SchedulerMixin,
    latents: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    step: int,
) -> torch.Tensor:
    """The latents before step `step`, with clean first frames at its noise level in their place.

    This is the replacement method of video diffusion models (arXiv 2204.03458, section 3.1).

    Args:
        latents, noise: [B, C, T, H, W]; the noise is that of the clip's start.
        clean: [B, C, K, H, W], the first K frames; K may be 0.
    """
    count = clean.shape[2]
    first = noised(scheduler, clean, noise[:, :, :count], step)
    return torch.cat([first, latents[:, :, count:]], dim=2)


def read_frames(frames: Any, channels: int) -> torch.Tensor:
    """Frames as a call returns them, of one clip or of several, to [N, C, K, H, W] in [-1, 1].

    Args:
        frames: PIL images of one clip, or a list of such lists; np [N, K, H, W, C] or
            [K, H, W, C]; pt [N, K, C, H, W] or [K, C, H, W]. Values of np and pt are in [0, 1].
        channels: C of the model; PIL images become RGB, or grey for a model of one channel.

    Raises:
        UsageError: another shape, images of several sizes, or values out of the range.
    """
    if isinstance(frames, torch.Tensor):
        clips = frames.float()
    elif isinstance(frames, np.ndarray):
        clips = torch.from_numpy(frames).float()
        clips = clips.movedim(-1, -3) if clips.dim() > 2 else clips
    else:
        clips = _stack_images(frames, "L" if channels == 1 else "RGB")
    if clips.dim() == 4:
        clips = clips[None]
    if clips.dim() != 5 or clips.shape[2] != channels or 0 in clips.shape:
        found = tuple(getattr(frames, "shape", clips.shape))
        raise UsageError(
            f"frames of shape {found} are no clips of {channels} channels: give lists of PIL "
            "images, np [N, K, H, W, C] or pt [N, K, C, H, W]"
        )
    if not (clips.amin() >= 0 and clips.amax() <= 1):
        low, high = float(clips.amin()), float(clips.amax())
        raise UsageError(f"frames have values from {low:g} to {high:g}, valid is 0 to 1")
    return (2 * clips - 1).transpose(1, 2)


def check_first_frames(
    given: torch.Tensor, prompts: int, num_frames: int, height: int, width: int
) -> None:
    """Raise `UsageError` unless frames [N, C, K, H, W] can begin clips of that size.

    Args:
        given: of one clip for all prompts, or of one for each.
        prompts: how many there are, or labels.
        num_frames: of the clips that are made, the given frames among them.
    """
    if tuple(given.shape[3:]) != (height, width):
        found = "x".join(map(str, given.shape[3:]))
        raise UsageError(f"frames are {found}, the clip is {height}x{width}: give one size")
    if given.shape[2] >= num_frames:
        raise UsageError(
            f"{given.shape[2]} given frames leave nothing to make of num_frames {num_frames}: give "
            "fewer, or more num_frames"
        )
    if len(given) not in (1, prompts):
        raise UsageError(
            f"{len(given)} clips of frames for {prompts} prompts or labels: give one, or one each"
        )


def first_frames(given: torch.Tensor | None, noise: torch.Tensor) -> torch.Tensor:
    """Given frames [N, C, K, H, W] as one row for each clip of the noise [B, C, T, H, W].

    Clip by clip if there are as many, else each for a run of clips; None is K = 0.
    """
    if given is None:
        return noise[:, :, :0]
    return given.to(noise).repeat_interleave(len(noise) // len(given), dim=0)


def _stack_images(frames: Sequence[Any], mode: str) -> torch.Tensor:
    """[N, K, C, H, W] in [0, 1] from one list of images, or from several of one length."""
    clips = [frames] if frames and isinstance(frames[0], PIL.Image.Image) else frames
    images = [image for clip in clips for image in clip]
    if not images or not all(isinstance(image, PIL.Image.Image) for image in images):
        raise UsageError("frames hold no images: give lists of PIL images, np or pt")
    if len({image.size for image in images}) > 1 or len({len(clip) for clip in clips}) > 1:
        raise UsageError("frames differ in size or number: give clips of one size and length")
    pixels = np.stack([np.asarray(image.convert(mode)) for image in images])
    grid = torch.from_numpy(pixels).float() / 255
    grid = grid[:, None] if mode == "L" else grid.movedim(-1, 1)
    return grid.unflatten(0, (len(clips), -1))
