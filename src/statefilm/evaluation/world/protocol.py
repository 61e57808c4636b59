"""The protocols: which prompts and seeds are drawn, how they are judged, beside which floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from statefilm.data.world.scene import SHAPES
from statefilm.data.world.tasks import T2I_TASKS, T2V_TASKS, Prompt, load_prompts
from statefilm.evaluation.world.evidence import Evidence, read_evidence
from statefilm.evaluation.world.quality import QUALITY
from statefilm.evaluation.world.reader import Reading, read_images
from statefilm.evaluation.world.results import Metric, Results, Sample, mean
from statefilm.evaluation.world.runs import (
    Generate,
    Judged,
    Progress,
    Run,
    asked,
    by_split,
    cycle,
    of_shapes,
    oracle,
    shifted,
    summary,
)
from statefilm.evaluation.world.semantics import OF_ALL, OF_TASK, SEMANTICS
from statefilm.evaluation.world.totals import normalised, total_scores
from statefilm.evaluation.world.triples import soft_score
from statefilm.evaluation.world.verdicts import judge, judge_clip

__all__ = ["evaluate_t2i", "evaluate_t2v", "oracle"]

NOISE_CLIPS = 4  # whose quality is the floor of quality
# All prompts of a task ask for as many things, so that shuffling them says nothing of these
# figures: their floor is that of blank clips.
FLOOR_IS_BLANK = ("instance_preservation",)
FEWER = 4  # the other tasks of clips have a quarter of the clips of the first


def evaluate_t2i(
    generate: Generate,
    *,
    images_per_task: int = 400,
    tasks: Sequence[str] = T2I_TASKS,
    shapes: Sequence[str] = SHAPES,
    seed: int = 0,
    batch_size: int = 32,
    zoom: float = 1.0,
    progress: Progress | None = None,
) -> Results:
    """The six text-to-image tasks, shaped as GenEval (Ghosh et al. 2023).

    Args:
        generate: makes images [N, 3, 1, H, W] from N prompts and N seeds.
        images_per_task: at least so many, every prompt of a task equally often. Where a task has
            more prompts than that, so many of them are drawn, always the same.
        tasks: any of `T2I_TASKS`.
        shapes: only prompts that name no others; at 32 pixels the world has no crosses.
        seed: image i of a task has the seed `seed + i`.
        batch_size: how many images `generate` is asked for at once, at most.
        zoom: how many times as long the canvas is as that of training, see `read_images`.
        progress: called after each batch.

    Returns:
        The verdicts "parity" and "strict" and the score "soft" (`triples`) of each task and, as
        "mean.parity" and so on, of the tasks together; with ".seen" and ".heldout" those on one
        kind of prompts. Floors are the same images under prompts shuffled within their task.
    """
    _check_tasks(tasks, T2I_TASKS)
    prompts = of_shapes(load_prompts("t2i"), shapes)
    plan = {
        task: cycle([p for p in prompts if p["tag"] == task], images_per_task) for task in tasks
    }
    total, done = sum(map(len, plan.values())), 0
    results = Results({}, details={"t2i": {"images": total, "seed": seed}})
    run = Run(
        generate,
        partial(_read_stills, zoom=zoom),
        _judge_still,
        ("strict", "soft"),
        seed,
        batch_size,
    )
    for task, chosen in plan.items():
        judged, samples = run(chosen, shifted(progress, done, total))
        done += len(chosen)
        results |= summary(f"{task}.", by_split(judged))
        results |= Results({}, samples={f"{task}.{name}": s for name, s in samples.items()})
    return results | _task_means(results, tasks)


def evaluate_t2v(
    generate: Generate,
    *,
    clips: int = 128,
    tasks: Sequence[str] = T2V_TASKS[:1],
    shapes: Sequence[str] = SHAPES,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Results:
    """Clips, shaped as VBench (arXiv 2311.17982): what moves, what it looks like, how well.

    The arguments are those of `evaluate_t2i`, with clips [N, 3, T, H, W] of T >= 5 frames for
    images. The motion class has `clips` of them (its list holds 128 prompts), each other task of
    `T2V_TASKS` a quarter as many.

    Returns:
        The dimensions of `SEMANTICS` that the tasks ask for, the verdicts of `judge_clip`, and
        those of `QUALITY` on the clips of the motion class; with ".seen" and ".heldout" as above,
        and the class of motion also for each motion apart, as in "motion_class.orbit". Floors are
        those of shuffled prompts, of pure noise for quality, and of blank clips for the
        preservation of instances. "quality_score" and, with all tasks, "semantic_score" and
        "total_score" weigh them, see `total_scores`; the details hold
        the normalised dimensions.
    """
    _check_tasks(tasks, T2V_TASKS)
    prompts = of_shapes([*load_prompts("t2v"), *load_prompts("t2v_dimensions")], shapes)
    plan = {
        task: cycle(
            [p for p in prompts if p["tag"] == task],
            clips if task == T2V_TASKS[0] else -(-clips // FEWER),
        )
        for task in tasks
    }
    total, done = sum(map(len, plan.values())), 0
    results = Results({}, details={"t2v": {"clips": total, "seed": seed}})
    by_task: dict[str, list[Judged]] = {}
    noise: dict[str, float] = {}
    for task, chosen in plan.items():
        run = Run(generate, _read_clips, _judge_clip, (task, OF_ALL[-1]), seed, batch_size)
        by_task[task], samples = run(chosen, shifted(progress, done, total))
        done += len(chosen)
        results |= Results({}, samples={f"{task}.{name}": s for name, s in samples.items()})
        if task == T2V_TASKS[0]:
            noise = _noise_quality(samples["best"][0], seed)
    judged = [item for items in by_task.values() for item in items]
    results |= summary("", by_split(judged))
    results |= summary("", _by_motion(judged), names=("motion_class",))
    empty = {name: results.blank[name] for name in FLOOR_IS_BLANK if name in results.blank}
    results = _with_floors(results, {**noise, **empty})
    return results | _scores(results, list(by_task.values()), seed)


def _check_tasks(tasks: Sequence[str], valid: Sequence[str]) -> None:
    for task in tasks:
        if task not in valid:
            raise ValueError(f"unknown task {task!r}: valid are {', '.join(valid)}")


def _read_stills(frames: torch.Tensor, zoom: float) -> list[Reading]:
    if frames.shape[2] != 1:
        raise ValueError(f"images have {frames.shape[2]} frames: valid is 1, as [N, 3, 1, H, W]")
    return read_images(frames[:, :, 0], zoom=zoom)


def _judge_still(found: Reading, prompt: Prompt) -> dict[str, float]:
    return {**judge(found, prompt), "soft": soft_score(found, asked(prompt))}


def _read_clips(frames: torch.Tensor) -> list[tuple[Evidence, dict[str, float]]]:
    """Each clip read, with its quality, which no prompt changes."""
    read = read_evidence(frames)
    return [(clip, {name: measure(clip) for name, measure in QUALITY.items()}) for clip in read]


def _judge_clip(found: tuple[Evidence, dict[str, float]], prompt: Prompt) -> dict[str, float]:
    clip, quality = found
    task, description = prompt["tag"], asked(prompt)
    names = (*OF_TASK[task], *OF_ALL)
    scores = {name: SEMANTICS[name](clip, description) for name in names}
    if task == T2V_TASKS[0]:
        scores |= {**judge_clip(clip.motion, prompt), **quality}
    return scores


def _by_motion(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    parts: dict[str, list[Judged]] = {}
    for item in judged:
        if item.prompt["tag"] == T2V_TASKS[0]:
            parts.setdefault(f".{item.prompt['include'][0]['motion']}", []).append(item)
    return parts


def _noise_quality(shaped_as: Sample, seed: int) -> dict[str, float]:
    """The quality of clips of pure noise, as long and as large as a sample."""
    assert shaped_as.frames is not None
    frames, *sizes = shaped_as.frames.shape
    generator = torch.Generator().manual_seed(seed)
    noise = 2 * torch.rand(NOISE_CLIPS, frames, *sizes, generator=generator) - 1
    found = [quality for _, quality in _read_clips(noise.transpose(1, 2))]
    return {name: sum(one[name] for one in found) / len(found) for name in QUALITY}


def _with_floors(results: Results, floors: Mapping[str, float]) -> Results:
    """The results with other floors for some figures, in all their parts."""
    metrics = {
        key: replace(metric, floor=floors.get(key.split(".")[0], metric.floor))
        for key, metric in results.metrics.items()
    }
    return replace(results, metrics=metrics)


def _scores(results: Results, by_task: list[list[Judged]], seed: int) -> Results:
    """The scores that weigh all dimensions, and the normalised dimensions."""
    dimensions = [name for name in (*SEMANTICS, *QUALITY) if name in results.metrics]
    floors = {name: results.metrics[name].floor for name in dimensions}
    truth = {name: results.oracle[name] for name in dimensions}
    clips = [
        [{n: item.scores[n] for n in dimensions if n in item.scores} for item in items]
        for items in by_task
    ]
    totals = total_scores(clips, floors, truth, tuple(SEMANTICS), seed)
    unit = {n: normalised(results.metrics[n].value, floors[n], truth[n]) for n in dimensions}
    details = {"t2v": {**results.details["t2v"], "normalised": unit}}
    nothing = [
        [{n: item.blank[n] for n in dimensions if n in item.blank} for item in items]
        for items in by_task
    ]
    scores = total_scores(nothing, floors, truth, tuple(SEMANTICS), seed)
    blank = {name: metric.value for name, metric in scores.items()}
    return Results(totals, dict.fromkeys(totals, 1.0), blank=blank, details=details)


def _task_means(results: Results, tasks: Sequence[str]) -> Results:
    """The unweighted means over the tasks; of a split over those that have prompts of both."""
    metrics: dict[str, Metric] = {}
    truth: dict[str, float] = {}
    empty: dict[str, float] = {}
    for name in ("strict", "parity", "soft"):
        for suffix in ("", ".seen", ".heldout"):
            # Tasks of one split only would make the difference of the splits one of tasks.
            splits = [suffix, ".seen", ".heldout"] if suffix else [""]
            keys = [
                f"{task}.{name}{suffix}"
                for task in tasks
                if all(f"{task}.{name}{split}" in results.metrics for split in splits)
            ]
            if keys:
                metrics[f"mean.{name}{suffix}"] = mean([results.metrics[key] for key in keys])
                truth[f"mean.{name}{suffix}"] = sum(results.oracle[k] for k in keys) / len(keys)
                empty[f"mean.{name}{suffix}"] = sum(results.blank[k] for k in keys) / len(keys)
    return Results(metrics, truth, blank=empty)
