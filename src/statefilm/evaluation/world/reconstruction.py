"""What a VAE keeps of the world: scenes and clips read back from their reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import ModelMixin
from torch import Tensor

from statefilm.data.world.sample import sample_batch
from statefilm.data.world.scene import Thing
from statefilm.errors import UsageError
from statefilm.evaluation.world.gates import agreement, draw_scenes
from statefilm.evaluation.world.reader import Found, Reading, read_images
from statefilm.evaluation.world.results import Results, Sample, proportion
from statefilm.models.vae import decode_latents, encode_frames, latent_shape

__all__ = ["evaluate_vae", "psnr"]

PARTS = ("count", "color", "shape")
KEPT = 8  # pictures of scenes that went wrong


@torch.no_grad()
def evaluate_vae(
    vae: ModelMixin | None,
    *,
    scenes: int = 500,
    clips: int = 50,
    num_frames: int = 9,
    size: int = 64,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """How often the reader finds in a reconstruction what was there.

    `scene` is the part of clean scenes whose number of things, and each thing's colour and shape,
    are read right from the reconstruction (`scene.count`, `scene.color` and `scene.shape`: these
    alone); its oracle is the same of the scenes as rendered. `clip` is the part of clips each frame
    of which reads as the true frame does. Floors are for reconstructions of other scenes. The
    details hold the mean PSNR in decibels of scenes and clips.

    Args:
        vae: an `AutoencoderKL*`; None scores the frames themselves.
        clips: how many, of `num_frames` frames; 0 leaves them out.
        progress: called with what is done and the whole, in scenes and clips.

    Raises:
        UsageError: the VAE does not take such frames, or there is nothing to score.
    """
    if scenes < 1 or clips < 0:
        raise UsageError(f"{scenes} scenes and {clips} clips: at least one scene is needed")
    latent_shape(vae, num_frames if clips else 1, size, size)
    device = torch.device("cpu") if vae is None else vae.device
    tell = progress or (lambda done, total: None)

    def rebuild(frames: Tensor, done: int) -> Tensor:
        parts = []
        for part in frames.split(batch_size):
            latents = encode_frames(vae, part.to(device))
            parts.append(decode_latents(vae, latents).clamp(-1, 1).cpu())
            tell(done := done + len(part), scenes + clips)
        return torch.cat(parts)

    results, ratio = _score_scenes(rebuild, scenes, seed, size)
    ratios = {"scenes": ratio}
    if clips:
        of_clips, ratios["clips"] = _score_clips(rebuild, clips, num_frames, seed, size, scenes)
        results |= of_clips
    return results | Results({}, details={"num_frames": num_frames, "psnr": ratios})


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """The peak signal-to-noise ratio [N] in decibels of samples [N, ...] in [-1, 1]."""
    error = (frames - truth).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def _score_scenes(
    rebuild: Callable[[Tensor, int], Tensor], count: int, seed: int, size: int
) -> tuple[Results, float]:
    """Figures of the scenes, and their mean PSNR."""
    truths: list[Sequence[Thing]] = []
    readings: list[Reading] = []
    clean: list[Reading] = []
    wrong: list[Sample] = []
    ratios: list[float] = []
    for scenes, images in draw_scenes(count, seed, size):
        again = rebuild(images[:, :, None], len(truths))[:, :, 0]
        read = read_images(again)
        clean += read_images(images)
        ratios += psnr(again, images).tolist()
        for scene, reading, one, other in zip(scenes, read, images, again, strict=True):
            if len(wrong) < KEPT and not all(agreement(scene.things, reading)):
                wrong.append(Sample("truth and reconstruction", _pixels(one, other)))
        truths += [scene.things for scene in scenes]
        readings += read
    verdicts, floor, oracle = (
        _verdicts(truths, read) for read in (readings, [*readings[1:], readings[0]], clean)
    )
    names = ("scene", *(f"scene.{part}" for part in PARTS))
    metrics = {n: proportion(verdicts[n], sum(floor[n]) / count) for n in names}
    truth = {name: sum(oracle[name]) / count for name in names}
    return Results(metrics, truth, samples={"scene.wrong": wrong}), sum(ratios) / count


def _score_clips(
    rebuild: Callable[[Tensor, int], Tensor],
    count: int,
    num_frames: int,
    seed: int,
    size: int,
    done: int,
) -> tuple[Results, float]:
    """The figure of the clips, and their mean PSNR."""
    truth = sample_batch(seed, 0, count, size=size, num_frames=num_frames, split="all").frames
    again = rebuild(truth, done)
    wanted, found = (read_images(clips.transpose(1, 2).flatten(0, 1)) for clips in (truth, again))
    things = [reading.objects for reading in wanted]
    moved = [*found[num_frames:], *found[:num_frames]]
    kept, floor = (
        [all(frames) for frames in _clips(_verdicts(things, read)["scene"], num_frames)]
        for read in (found, moved)
    )
    metric = proportion(kept, sum(floor) / count)
    return Results({"clip": metric}, {"clip": 1.0}), float(psnr(again, truth).mean())


def _verdicts(
    truths: Sequence[Sequence[Thing] | Sequence[Found]], readings: Sequence[Reading]
) -> dict[str, list[bool]]:
    """Whether each picture shows what it should, whole and by part."""
    rows = [agreement(things, read) for things, read in zip(truths, readings, strict=True)]
    columns = zip(*rows, strict=True)
    parts = {f"scene.{part}": list(column) for part, column in zip(PARTS, columns, strict=True)}
    return {"scene": [all(row) for row in rows], **parts}


def _clips(verdicts: list[bool], num_frames: int) -> list[list[bool]]:
    starts = range(0, len(verdicts), num_frames)
    return [verdicts[start : start + num_frames] for start in starts]


def _pixels(*images: Tensor) -> Tensor:
    """Images [3, H, W] in [-1, 1] side by side as uint8."""
    return ((torch.cat(images, 2).clamp(-1, 1) + 1) * 127.5).round().byte()
