"""Clips of a model beside real ones of their world: distance, readings, and what they floor at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from statefilm.data.worlds import find_world
from statefilm.evaluation.clips.fvd import fvd_rand128
from statefilm.evaluation.clips.readings import read_clips, shuffled_frames
from statefilm.evaluation.world.results import Metric, Results
from statefilm.evaluation.world.statistics import wilson_interval
from statefilm.pipelines import VideoDiffusionPipeline

__all__ = ["clip_generator", "evaluate_clips", "real_clips"]

MakeClips = Callable[[Sequence[int] | None, Sequence[int]], Tensor]

REAL_SEED = 7919  # of the real clips, from the split that nothing is trained on


def evaluate_clips(
    make: MakeClips,
    world: str,
    *,
    clips: int = 64,
    num_frames: int = 16,
    size: int = 64,
    by_class: bool = False,
    seed: int = 0,
    batch_size: int = 4,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Results, Tensor]:
    """FVD-rand128 and the readings of generated clips, and the clips [N, 3, T, H, W].

    The floor of the FVD is that of real clips; those of the readings are of real clips with their
    frames in random order. "oracle" holds the readings of real clips as they are, "blank" those of
    a black one. With `by_class` the classes asked for are those of the real clips, and `class` is
    the share that shows them, beside what another order of the same classes would give.

    Args:
        make: labels, None without classes, and seeds to clips [n, 3, T, H, W] in [-1, 1].
        world: "balls", "maze" or "glyphs".
        clips: how many; at least 16.
        num_frames, size: of the clips.
        seed: clip i is made from seed + i.
        progress: called as (done, total).

    Raises:
        UsageError: an unknown world, too few clips, or a size that the world does not take.
    """
    judge = find_world(world)
    real, labels = real_clips(world, 2 * clips, size=size, num_frames=num_frames)
    made = []
    for start in range(0, clips, batch_size):
        stop = min(start + batch_size, clips)
        asked = labels[start:stop] if by_class else None
        made.append(make(asked, range(seed + start, seed + stop)))
        progress(stop, clips)
    generated = torch.cat(made)
    distance = fvd_rand128(generated, real)
    first = real[:clips]
    metrics = {
        "fvd_rand128": Metric(
            distance.value, distance.low, distance.high, distance.n, distance.floor
        ),
        **read_clips(world, generated, shuffled_frames(first)),
    }
    oracle = {name: metric.value for name, metric in read_clips(world, first).items()}
    nothing = read_clips(world, torch.full_like(first[:1], -1))
    blank = {name: metric.value for name, metric in nothing.items() if metric.n}
    if by_class:
        shown, there = (
            [judge.label_of(reading) for reading in judge.read(some)] for some in (generated, first)
        )
        metrics["class"] = _agreement(shown, labels[:clips])
        oracle["class"] = _agreement(there, labels[:clips]).value
    details = {"fvd_rand128": {"clips": distance.n, "features": distance.features}}
    return Results(metrics, oracle, details=details, blank=blank), generated


def real_clips(world: str, count: int, *, size: int, num_frames: int) -> tuple[Tensor, list[int]]:
    """Clips [count, 3, T, size, size] of a world that nothing is trained on, and their classes."""
    sizes = {"size": size, "num_frames": num_frames}
    batch = find_world(world).sample_batch(REAL_SEED, 0, count, split="test", **sizes)
    return batch.frames, batch.labels.tolist()


def clip_generator(pipe: VideoDiffusionPipeline, num_frames: int, **settings: Any) -> MakeClips:
    """`make` of `evaluate_clips` from a pipeline; clip i is the same in any batch.

    Args:
        settings: further arguments of each call of the pipeline.
    """

    def make(labels: Sequence[int] | None, seeds: Sequence[int]) -> Tensor:
        kind: dict[str, Any] = {"num_videos_per_prompt": len(seeds)}
        if labels is not None:
            kind = {"class_labels": list(labels)}
        output: Any = pipe(
            num_frames=num_frames,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
            **kind,
            **settings,
        )
        clips: Tensor = output.frames.float().clamp(-1, 1).cpu()
        return clips

    return make


def _agreement(shown: Sequence[int | None], asked: Sequence[int]) -> Metric:
    """The share of clips that show the class asked for; its floor is over all other pairings."""
    count = len(asked)
    right = sum(a == b for a, b in zip(shown, asked, strict=True))
    pairs = sum(a == b for a in shown for b in asked)
    floor = (pairs - right) / (count * (count - 1)) if count > 1 else 0.0
    return Metric(right / count, *wilson_interval(right, count), count, floor)
