"""Training and measuring the arms of a study, several at once, each only once."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import yaml

from statefilm.errors import UsageError
from statefilm.evaluation.world import Metric, Results, evaluate_vae
from statefilm.experiments.judging import judge_clips, judge_world
from statefilm.experiments.study import (
    ClipMeasures,
    Measures,
    Study,
    flops_of_step,
)
from statefilm.models.vae import load_vae
from statefilm.pipelines.loading import vae_folder
from statefilm.training import Trainer
from statefilm.training.batches import Batches
from statefilm.training.recipe import Recipe, VAERecipe
from statefilm.training.streams import Stream
from statefilm.training.tasks.diffusion import DiffusionTask

Call = Callable[[], Any]

LEVELS = (0.2, 0.4, 0.6, 0.8, 0.9)
KEPT = Path("kept", "results.json")  # of a VAE's run: what its reconstructions read as
HELD_BACK = 982_451_653  # the seed of the samples that losses are measured on


@dataclass(frozen=True)
class Outcome:
    """What one arm gave with one seed.

    Attributes:
        metrics: of the benchmarks; those of a scale other than 1 end in "@scale".
        losses: squared errors of single samples, by "stream level"; the same samples and the same
            noise in every arm and seed.
        flops: operations of the denoiser's forward passes while training.
        seconds: of training.
    """

    arm: str
    seed: int
    steps: int
    parameters: int
    flops: float
    seconds: float
    metrics: dict[str, Metric]
    losses: dict[str, list[float]]


def run_study(
    study: Study,
    folder: Path,
    seeds: Sequence[int],
    *,
    arms: Sequence[str] | None = None,
    jobs: int = 1,
    note: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Train and measure every arm with every seed, seed by seed; what is there is not done again,
    nor are runs of the same recipe that other studies in the folder's parent have done.

    Args:
        folder: of the study; an arm's run and results are in "<arm>/seed-<n>".
        arms: only these; None is all.
        jobs: arms at a time, each in a process of its own with its share of the processors.
        note: takes a line when an arm is done.

    Raises:
        UsageError: an unknown arm, or results in the folder that come from another recipe.
    """
    chosen = list(study.arms) if arms is None else list(dict.fromkeys(arms))
    for arm in chosen:
        if arm not in study.arms:
            raise UsageError(f"unknown arm {arm!r}: valid are {', '.join(study.arms)}")
    seeds_of_stages = seeds if study.before is not None else ()
    outcomes: list[Outcome] = []
    with _workers(jobs) as do_all:
        for _ in do_all([partial(train_before, study, seed, folder) for seed in seeds_of_stages]):
            pass
        calls = [partial(run_arm, study, arm, seed, folder) for seed in seeds for arm in chosen]
        for outcome in do_all(calls):
            outcomes.append(outcome)
            note(_line(study, outcome))
    order = {arm: place for place, arm in enumerate(study.arms)}
    return sorted(outcomes, key=lambda one: (order[one.arm], one.seed))


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[[Sequence[Call]], Iterator[Any]]]:
    """What makes calls and yields results as they come, in `jobs` processes that share the
    processors; a single job is done in this process."""
    if jobs == 1:
        yield lambda calls: (call() for call in calls)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(threads,)
    )
    try:
        yield lambda calls: (one.result() for one in as_completed([*map(pool.submit, calls)]))
    finally:  # after an error or Ctrl-C, arms that wait are not begun
        pool.shutdown(cancel_futures=True)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would train on, unseen; its checkpoints are there."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _line(study: Study, one: Outcome) -> str:
    return (
        f"{study.name}, {one.arm}, seed {one.seed}: {one.steps} steps in {one.seconds:.0f} s, "
        f"{study.headline} {one.metrics[study.headline].value:.3f}"
    )


def train_before(study: Study, seed: int, folder: Path) -> Path:
    """Train the study's first stage, unless it is there; the folder of its run.

    A VAE's reconstructions are read too.
    """
    assert study.before is not None
    run = before_folder(folder, seed)
    recipe = study.before.recipe_for(seed)
    _borrow(run, recipe, folder.parent)
    _check_run(run, recipe)
    trainer = Trainer(recipe, run, quiet=True)
    trained = trainer.fit()
    if isinstance(recipe, VAERecipe) and not (run / KEPT).is_file():
        size = recipe.data[0].drawn.size
        results = evaluate_vae(load_vae(vae_folder(str(trained))), clips=0, size=size)
        training = Results({}, details={"minutes": trainer.counters.seconds / 60})
        (results | training).write((run / KEPT).parent)
    return run


def run_arm(study: Study, arm: str, seed: int, folder: Path) -> Outcome:
    """Train and measure one arm with one seed, or read what is there."""
    place = arm_folder(folder, arm, seed)
    source = None if study.before is None else str(before_folder(folder, seed))
    recipe = study.recipe_of(arm, seed, source)
    file = place / "outcome.json"
    made_with = {**_origin(recipe), "measures": _plain(study.measures)}
    if file.is_file():
        return _read(file, made_with)
    _borrow(place / "run", recipe, folder.parent)
    _check_run(place / "run", recipe)
    trainer = Trainer(recipe, place / "run", quiet=True)
    trained = trainer.fit()
    task = trainer.task
    assert isinstance(task, DiffusionTask)
    with trainer.average.applied(), task.evaluation():
        losses = dict(_losses(task, recipe.data, study.measures.loss_samples))
    judge = judge_clips if isinstance(study.measures, ClipMeasures) else judge_world
    results = judge(study, recipe, trained, place / "samples.png")
    results.write(place)
    outcome = Outcome(
        arm=arm,
        seed=seed,
        steps=trainer.counters.step,
        parameters=sum(p.numel() for p in task.denoiser.parameters()),
        flops=trainer.counters.step * flops_of_step(recipe),
        seconds=trainer.counters.seconds,
        metrics=results.metrics,
        losses=losses,
    )
    content = {**made_with, **asdict(outcome)}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(part, file)
    return outcome


def before_folder(folder: Path, seed: int) -> Path:
    """Where the run of a study's first stage is."""
    return folder / "before" / f"seed-{seed}"


def arm_folder(folder: Path, arm: str, seed: int) -> Path:
    """Where an arm's run and results are."""
    return folder / re.sub(r"[^\w.-]+", "-", arm) / f"seed-{seed}"


def _borrow(run: Path, recipe: Recipe, studies: Path) -> None:
    """Copy the finished run of an arm with the same recipe, of whichever study of a folder.

    Args:
        run: where it goes; left alone if it is there.
    """
    if run.exists():
        return
    for outcome in sorted(studies.glob("*/*/seed-*/outcome.json")):
        source, part = outcome.with_name("run"), run.with_name(f"{run.name}.part")
        made_with, wanted = json.loads(outcome.read_text("utf-8")), _origin(recipe)
        if source.is_dir() and all(made_with.get(name) == wanted[name] for name in wanted):
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
            os.replace(part, run)
            return


def _check_run(run: Path, recipe: Recipe) -> None:
    """Raise where a run of another recipe would be gone on with."""
    file = run / "recipe.yaml"
    if file.is_file() and yaml.safe_load(file.read_text("utf-8")) != recipe.model_dump(mode="json"):
        raise UsageError(f"{run} holds a run of another recipe: give another folder, or remove it")


def _origin(recipe: Recipe) -> dict[str, Any]:
    """What a run must come from to be taken for one of a recipe: where minutes end it, how far it
    gets lies with the threads as well."""
    threads = {} if recipe.max_minutes is None else {"threads": torch.get_num_threads()}
    return {"recipe": recipe.model_dump(mode="json"), **threads}


def _plain(measures: Measures | ClipMeasures) -> dict[str, Any]:
    """The measures as JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(measures)))
    return plain


def _read(file: Path, made_with: Mapping[str, Any]) -> Outcome:
    content = json.loads(file.read_text("utf-8"))
    for name, now in made_with.items():
        then = content.pop(name, None)
        if name == "threads" and then != now:
            raise UsageError(
                f"{file.parent} trained by the clock with {then} threads, not with {now}: give as "
                "many --jobs as then, or another folder"
            )
        if then != now:
            raise UsageError(
                f"{file.parent} comes from another recipe or other measures: give another folder, "
                "or remove it"
            )
    content["metrics"] = {name: Metric(**value) for name, value in content["metrics"].items()}
    return Outcome(**content)


def _losses(
    task: DiffusionTask, streams: Sequence[Stream], samples: int
) -> Iterator[tuple[str, list[float]]]:
    """Errors on held-back samples at fixed noise levels, by stream and level."""
    batches = Batches(HELD_BACK, streams, task.batches.draw)
    for number, stream in enumerate(streams):
        steps = range(-(-samples // stream.batch_size))
        for level in LEVELS:
            errors: list[float] = []
            for step in steps:
                batch = batches.batch(number, step).to(task.device)
                fixed = replace(batch, level=torch.full_like(batch.level, level))
                errors += task.errors(fixed).tolist()
            yield f"{batches.names[number]} {level:g}", errors[:samples]
