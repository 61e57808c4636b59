"""A generator's pictures made, read and judged beside their floor and the oracle."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from statefilm.data.world.captions import parse
from statefilm.data.world.render import MAX_SIZE, MIN_SIZE, render
from statefilm.data.world.sample import compose
from statefilm.data.world.scene import BACKGROUNDS, SHAPES, Description
from statefilm.data.world.splits import is_heldout
from statefilm.data.world.tasks import Prompt
from statefilm.evaluation.world.results import Metric, Results, Sample, proportion

# (prompts, seeds) -> frames [N, 3, T, H, W] in [-1, 1]
Generate = Callable[[list[str], list[int]], torch.Tensor]
Progress = Callable[[int, int], None]  # (done, total)
Scores = Mapping[str, float]

DRAWN_BY = 8  # a seed by which a dozen prompts of a task hold both splits, where it has both
SHUFFLES = 16  # permutations of the prompts that a floor averages over
KEPT = 8  # pictures kept of each task, the best and the worst ones each
STRIP = 5  # frames of a clip that its kept strip shows

described = lru_cache(maxsize=4096)(parse)


@dataclass(frozen=True, slots=True)
class Judged:
    """The scores of one picture: as made, under shuffled prompts (means), of its oracle, and of a
    blank one in its place."""

    prompt: Prompt
    scores: Scores
    floors: Scores
    oracle: Scores
    blank: Scores


@dataclass(frozen=True, slots=True)
class Run:
    """A generator with the way in which its pictures are read and judged.

    Attributes:
        read: frames [N, 3, T, H, W] to what `judge` takes, for each.
        judge: what was read and a prompt to scores, 0 to 1.
        ranked_by: the scores that order samples, the first before the second.
        seed: of the first picture.
        batch_size: how many pictures are asked for at once, at most.
    """

    generate: Generate
    read: Callable[[torch.Tensor], list[Any]]
    judge: Callable[[Any, Prompt], Scores]
    ranked_by: tuple[str, str]
    seed: int
    batch_size: int

    def __call__(
        self, prompts: list[Prompt], progress: Callable[[int], None]
    ) -> tuple[list[Judged], dict[str, list[Sample]]]:
        """Judges one picture for each prompt; keeps the best and the worst."""
        found, truths, empty = [], [], None
        best: list[Sample] = []
        worst: list[Sample] = []
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            texts = [prompt["prompt"] for prompt in batch]
            seeds = [self.seed + start + i for i in range(len(batch))]
            frames = self._frames(texts, seeds)
            found += self.read(frames)
            size = min(max(frames.shape[-1], MIN_SIZE), MAX_SIZE)
            truths += self.read(oracle(texts, seeds, size=size, num_frames=frames.shape[2]))
            if empty is None:
                (empty,) = self.read(blank(size=size, num_frames=frames.shape[2]))
            made = [
                self._sample(*one) for one in zip(batch, found[start:], frames, seeds, strict=True)
            ]
            best = sorted([*best, *made], key=_rank, reverse=True)[:KEPT]
            worst = sorted([*worst, *made], key=_rank)[:KEPT]
            progress(start + len(batch))
        rows = zip(prompts, found, self._floors(found, prompts), truths, strict=True)
        judged = [
            Judged(
                prompt,
                self.judge(reading, prompt),
                floor,
                self.judge(truth, prompt),
                self.judge(empty, prompt),
            )
            for prompt, reading, floor, truth in rows
        ]
        return judged, {"best": best, "worst": worst}

    def _frames(self, texts: list[str], seeds: list[int]) -> torch.Tensor:
        frames = self.generate(texts, seeds).cpu()
        if frames.ndim != 5 or len(frames) != len(texts):
            raise ValueError(
                f"generated frames have the shape {list(frames.shape)}: "
                f"valid for {len(texts)} prompts is [{len(texts)}, 3, T, H, W]"
            )
        return frames

    def _sample(self, prompt: Prompt, reading: Any, picture: torch.Tensor, seed: int) -> Sample:
        scores = self.judge(reading, prompt)
        strict, soft = (float(scores[name]) for name in self.ranked_by)
        frames = pixels(picture).transpose(0, 1)
        return Sample(prompt["prompt"], _strip(frames), frames, strict, soft, seed)

    def _floors(self, found: list[Any], prompts: list[Prompt]) -> list[Scores]:
        """How right each picture would be under another picture's prompt."""
        order = random.Random(self.seed)
        shuffled = [order.sample(prompts, len(prompts)) for _ in range(SHUFFLES)]
        floors: list[Scores] = []
        for reading, others in zip(found, zip(*shuffled, strict=True), strict=True):
            scores = [self.judge(reading, prompt) for prompt in others]
            floors.append({name: sum(s[name] for s in scores) / SHUFFLES for name in scores[0]})
        return floors


def oracle(
    prompts: Sequence[str], seeds: Sequence[int], *, size: int = 64, num_frames: int = 1
) -> torch.Tensor:
    """The perfect generator: random scenes of which the prompts are true, rendered.

    Returns:
        float32 [N, 3, num_frames, size, size] in [-1, 1].
    """
    scenes = [compose(parse(p), seed) for p, seed in zip(prompts, seeds, strict=True)]
    return render(scenes, size=size, num_frames=num_frames)


def blank(*, size: int = 64, num_frames: int = 1) -> torch.Tensor:
    """A picture of nothing: the first background, float32 [1, 3, num_frames, size, size]."""
    color = torch.tensor(next(iter(BACKGROUNDS.values()))) / 127.5 - 1
    return color.view(1, 3, 1, 1, 1).expand(1, 3, num_frames, size, size)


def pixels(picture: torch.Tensor) -> torch.Tensor:
    """Values in [-1, 1] as uint8."""
    return ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def of_shapes(prompts: list[Prompt], shapes: Sequence[str]) -> list[Prompt]:
    """The prompts that name no other shapes; raises ValueError for an unknown one."""
    for shape in shapes:
        if shape not in SHAPES:
            raise ValueError(f"unknown shape {shape!r}: valid are {', '.join(SHAPES)}")
    return [p for p in prompts if all(need["class"] in shapes for need in p["include"])]


def cycle(prompts: list[Prompt], count: int) -> list[Prompt]:
    """At least `count` prompts, each equally often, or `count` of them where there are more.

    One is drawn of each of `count` stretches of the list, always the same: those at even distances
    could all ask for one shape.
    """
    if count < 1:
        raise ValueError(f"{count} pictures are not enough to judge: at least 1 is needed")
    if not prompts:
        raise ValueError("no prompt of a task names these shapes alone: allow more of them")
    if count < len(prompts):
        draw, ends = random.Random(DRAWN_BY), [n * len(prompts) // count for n in range(count + 1)]
        return [prompts[draw.randrange(*stretch)] for stretch in pairwise(ends)]
    return prompts * math.ceil(count / len(prompts))


def asked(prompt: Prompt) -> Description:
    """What a prompt says."""
    return described(prompt["prompt"])


def by_split(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """All, those of seen prompts and those of held-out ones, by the ending of their figures."""
    parts: dict[str, list[Judged]] = {"": list(judged), ".seen": [], ".heldout": []}
    for item in judged:
        parts[".heldout" if is_heldout(asked(item.prompt)) else ".seen"].append(item)
    return parts


def summary(
    prefix: str, parts: Mapping[str, Sequence[Judged]], names: Sequence[str] | None = None
) -> Results:
    """Figures for each score and part, named `prefix` + score + the part's suffix."""
    metrics: dict[str, Metric] = {}
    truth: dict[str, float] = {}
    empty: dict[str, float] = {}
    for suffix, judged in parts.items():
        for name in names or (dict.fromkeys(n for item in judged for n in item.scores)):
            scored = [item for item in judged if name in item.scores]
            floor = sum(item.floors[name] for item in scored) / len(scored)
            key = f"{prefix}{name}{suffix}"
            metrics[key] = proportion([item.scores[name] for item in scored], floor)
            truth[key] = sum(item.oracle[name] for item in scored) / len(scored)
            empty[key] = sum(item.blank[name] for item in scored) / len(scored)
    return Results(metrics, truth, blank=empty)


def shifted(progress: Progress | None, done: int, total: int) -> Callable[[int], None]:
    """Progress of a part of the whole."""
    return lambda more: progress(done + more, total) if progress else None


def _rank(sample: Sample) -> tuple[float, float]:
    return sample.strict or 0.0, sample.soft or 0.0


def _strip(frames: torch.Tensor) -> torch.Tensor:
    """Some frames of uint8 [T, 3, H, W] side by side."""
    step = max(1, (len(frames) - 1) // (STRIP - 1))
    row = torch.cat([F.pad(frame, (0, 1), value=255) for frame in frames[::step]], dim=-1)
    return row[..., :-1]
