"""The protocols: which prompts and seeds are drawn, how they are judged, beside which floors."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from statefilm.data.world.captions import parse
from statefilm.data.world.render import MAX_SIZE, MIN_SIZE, render
from statefilm.data.world.sample import compose
from statefilm.data.world.scene import SHAPES
from statefilm.data.world.splits import is_heldout
from statefilm.data.world.tasks import T2I_TASKS, Prompt, load_prompts
from statefilm.evaluation.world.motion import read_clips
from statefilm.evaluation.world.reader import read_images
from statefilm.evaluation.world.results import Metric, Results, Sample, mean, proportion
from statefilm.evaluation.world.verdicts import judge, judge_clip

# (prompts, seeds) -> frames [N, 3, T, H, W] in [-1, 1]
Generate = Callable[[list[str], list[int]], torch.Tensor]
Progress = Callable[[int, int], None]  # (done, total)

SHUFFLES = 16  # permutations of the prompts that a floor averages over
KEPT = 8  # pictures kept of each task, right ones and wrong ones each
STRIP = 5  # frames of a clip that its kept strip shows


def evaluate_t2i(
    generate: Generate,
    *,
    images_per_task: int = 400,
    tasks: Sequence[str] = T2I_TASKS,
    shapes: Sequence[str] = SHAPES,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Results:
    """The six text-to-image tasks, shaped as GenEval (Ghosh et al. 2023).

    Args:
        generate: makes images [N, 3, 1, H, W] from N prompts and N seeds.
        images_per_task: at least so many, every prompt of a task equally often. Where a task has
            more prompts than that, so many of them are taken, spread evenly over its list.
        tasks: any of `T2I_TASKS`.
        shapes: only prompts that name no others; at 32 pixels the world has no crosses.
        seed: image i of a task has the seed `seed + i`.
        batch_size: how many images `generate` is asked for at once, at most.
        progress: called after each batch.

    Returns:
        The verdicts "parity" and "strict" of each task and, as "mean.parity" and "mean.strict", of
        the tasks together; with ".seen" and ".heldout" those on one kind of prompts. Floors are
        the same images under prompts shuffled within their task.
    """
    for task in tasks:
        if task not in T2I_TASKS:
            raise ValueError(f"unknown task {task!r}: valid are {', '.join(T2I_TASKS)}")
    prompts = _of_shapes(load_prompts("t2i"), shapes)
    plan = {
        task: _cycle([p for p in prompts if p["tag"] == task], images_per_task) for task in tasks
    }
    total, done = sum(map(len, plan.values())), 0
    results = Results({}, details={"t2i": {"images": total, "seed": seed}})
    for task, chosen in plan.items():
        run = _Run(generate, _read_stills, judge, seed, batch_size)
        judged, samples = run(chosen, "strict", _shifted(progress, done, total))
        done += len(chosen)
        results |= _summary(f"{task}.", _by_split(judged))
        results |= Results({}, samples={f"{task}.{name}": s for name, s in samples.items()})
    return results | _task_means(results, tasks)


def evaluate_t2v(
    generate: Generate,
    *,
    clips: int = 128,
    shapes: Sequence[str] = SHAPES,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Results:
    """Clips of one moving thing: its class of motion, its colour, its shape, and all of these.

    The arguments are those of `evaluate_t2i`, with clips [N, 3, T, H, W] of T >= 5 frames for
    images, and 128 prompts in one task.

    Returns:
        The verdicts of `judge_clip`, with ".seen" and ".heldout" as above, and the class of motion
        also for each motion apart, as in "motion_class.orbit".
    """
    prompts = _cycle(_of_shapes(load_prompts("t2v"), shapes), clips)
    run = _Run(generate, read_clips, judge_clip, seed, batch_size)
    judged, samples = run(prompts, "motion_class", _shifted(progress, 0, len(prompts)))
    motions = dict.fromkeys(item.prompt["include"][0]["motion"] for item in judged)
    by_motion = {
        f".{motion}": [item for item in judged if item.prompt["include"][0]["motion"] == motion]
        for motion in motions
    }
    results = _summary("", _by_split(judged))
    results |= _summary("", by_motion, names=("motion_class",))
    return results | Results(
        {},
        samples={f"motion_class.{name}": s for name, s in samples.items()},
        details={"t2v": {"clips": len(prompts), "seed": seed}},
    )


def oracle(
    prompts: Sequence[str], seeds: Sequence[int], *, size: int = 64, num_frames: int = 1
) -> torch.Tensor:
    """The perfect generator: random scenes of which the prompts are true, rendered.

    Returns:
        float32 [N, 3, num_frames, size, size] in [-1, 1].
    """
    scenes = [compose(parse(p), seed) for p, seed in zip(prompts, seeds, strict=True)]
    return render(scenes, size=size, num_frames=num_frames)


@dataclass(frozen=True, slots=True)
class _Judged:
    """The verdicts on one picture: as made, under shuffled prompts (rates), and on its oracle."""

    prompt: Prompt
    verdicts: dict[str, bool]
    floors: dict[str, float]
    oracle: dict[str, bool]


@dataclass(frozen=True, slots=True)
class _Run:
    """A generator with the way in which its pictures are read and judged."""

    generate: Generate
    read: Callable[[torch.Tensor], list[Any]]
    judge: Callable[[Any, Prompt], dict[str, bool]]
    seed: int
    batch_size: int

    def __call__(
        self, prompts: list[Prompt], telling: str, progress: Callable[[int], None]
    ) -> tuple[list[_Judged], dict[str, list[Sample]]]:
        """Judges one picture for each prompt; keeps some that are right or wrong by `telling`."""
        found, truths = [], []
        samples: dict[str, list[Sample]] = {"right": [], "wrong": []}
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            texts = [prompt["prompt"] for prompt in batch]
            seeds = [self.seed + start + i for i in range(len(batch))]
            frames = self.generate(texts, seeds).cpu()
            if frames.ndim != 5 or len(frames) != len(batch):
                raise ValueError(
                    f"generated frames have the shape {list(frames.shape)}: "
                    f"valid for {len(batch)} prompts is [{len(batch)}, 3, T, H, W]"
                )
            found += self.read(frames)
            size = min(max(frames.shape[-1], MIN_SIZE), MAX_SIZE)
            truths += self.read(oracle(texts, seeds, size=size, num_frames=frames.shape[2]))
            for prompt, reading, picture in zip(batch, found[start:], frames, strict=True):
                kept = samples["right" if self.judge(reading, prompt)[telling] else "wrong"]
                if len(kept) < KEPT:
                    kept.append(Sample(prompt["prompt"], _strip(picture)))
            progress(start + len(batch))
        floors = self._floors(found, prompts)
        rows = zip(prompts, found, floors, truths, strict=True)
        judged = [
            _Judged(prompt, self.judge(reading, prompt), floor, self.judge(truth, prompt))
            for prompt, reading, floor, truth in rows
        ]
        return judged, samples

    def _floors(self, found: list[Any], prompts: list[Prompt]) -> list[dict[str, float]]:
        """How often each picture would be right under another picture's prompt."""
        order = random.Random(self.seed)
        shuffled = [order.sample(prompts, len(prompts)) for _ in range(SHUFFLES)]
        floors = []
        for reading, others in zip(found, zip(*shuffled, strict=True), strict=True):
            verdicts = [self.judge(reading, prompt) for prompt in others]
            floors.append({name: sum(v[name] for v in verdicts) / SHUFFLES for name in verdicts[0]})
        return floors


def _read_stills(frames: torch.Tensor) -> list[Any]:
    if frames.shape[2] != 1:
        raise ValueError(f"images have {frames.shape[2]} frames: valid is 1, as [N, 3, 1, H, W]")
    return read_images(frames[:, :, 0])


def _of_shapes(prompts: list[Prompt], shapes: Sequence[str]) -> list[Prompt]:
    for shape in shapes:
        if shape not in SHAPES:
            raise ValueError(f"unknown shape {shape!r}: valid are {', '.join(SHAPES)}")
    return [p for p in prompts if all(need["class"] in shapes for need in p["include"])]


def _cycle(prompts: list[Prompt], count: int) -> list[Prompt]:
    """At least `count` prompts, each equally often, or `count` of them where there are more."""
    if count < 1:
        raise ValueError(f"{count} pictures are not enough to judge: at least 1 is needed")
    if count < len(prompts):
        return [prompts[i * len(prompts) // count] for i in range(count)]
    return prompts * math.ceil(count / len(prompts))


def _shifted(progress: Progress | None, done: int, total: int) -> Callable[[int], None]:
    return lambda more: progress(done + more, total) if progress else None


def _strip(picture: torch.Tensor) -> torch.Tensor:
    """Some frames of [3, T, H, W] in [-1, 1] side by side, uint8."""
    step = max(1, (picture.shape[1] - 1) // (STRIP - 1))
    row = torch.cat([F.pad(f, (0, 1), value=1.0) for f in picture[:, ::step].unbind(1)], dim=-1)
    return ((row[..., :-1].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def _by_split(judged: list[_Judged]) -> dict[str, list[_Judged]]:
    parts: dict[str, list[_Judged]] = {"": judged, ".seen": [], ".heldout": []}
    for item in judged:
        heldout = is_heldout(parse(item.prompt["prompt"]))
        parts[".heldout" if heldout else ".seen"].append(item)
    return parts


def _summary(
    prefix: str, parts: Mapping[str, list[_Judged]], names: Sequence[str] | None = None
) -> Results:
    """Figures for each verdict and part, named `prefix` + verdict + the part's suffix."""
    metrics: dict[str, Metric] = {}
    truth: dict[str, float] = {}
    for suffix, judged in parts.items():
        for name in names or (judged[0].verdicts if judged else ()):
            floor = sum(item.floors[name] for item in judged) / len(judged)
            key = f"{prefix}{name}{suffix}"
            metrics[key] = proportion([item.verdicts[name] for item in judged], floor)
            truth[key] = sum(item.oracle[name] for item in judged) / len(judged)
    return Results(metrics, truth)


def _task_means(results: Results, tasks: Sequence[str]) -> Results:
    """The unweighted means over the tasks, or over those that have prompts of a split."""
    metrics: dict[str, Metric] = {}
    truth: dict[str, float] = {}
    for name in ("strict", "parity"):
        for suffix in ("", ".seen", ".heldout"):
            keys = [f"{task}.{name}{suffix}" for task in tasks]
            keys = [key for key in keys if key in results.metrics]
            if keys:
                metrics[f"mean.{name}{suffix}"] = mean([results.metrics[key] for key in keys])
                truth[f"mean.{name}{suffix}"] = sum(results.oracle[k] for k in keys) / len(keys)
    return Results(metrics, truth)
