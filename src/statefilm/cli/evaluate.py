"""`statefilm eval`: a model measured on the checkable world; a table, results.json and a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statefilm.cli import options, outputs
from statefilm.cli.console import Console
from statefilm.cli.errors import CommandError
from statefilm.cli.options import value_or
from statefilm.errors import check_stepped, suggest

if TYPE_CHECKING:
    from statefilm.evaluation.world import Results

Seed = Annotated[int, typer.Option("--seed", "-s", min=0, help="Of what is made or drawn.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Made at once.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FOLDER", help="For results.json and what goes with it."
    ),
]

app = typer.Typer(help="Measure a model: a table and results.json.", rich_markup_mode=None)


@app.callback()
def _suites() -> None:
    pass


@app.command()
def world(
    model: options.Model = options.DEFAULT_MODEL,
    images_per_task: Annotated[
        int, typer.Option("--images-per-task", min=1, help="At least so many of each task.")
    ] = 400,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Image tasks, with commas. [all six]")
    ] = None,
    video: Annotated[bool, typer.Option(help="Also score the motion of clips.")] = True,
    clips: Annotated[
        int,
        typer.Option(
            "--clips", min=1, help="Clips of the motion class; other tasks have a quarter."
        ),
    ] = 128,
    clip_tasks: Annotated[
        str | None, typer.Option("--clip-tasks", help="Clip tasks, with commas. [all five]")
    ] = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    shift: options.Shift = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    output: Output = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read made images and clips back from their pixels and score them."""
    from statefilm.data.world.sample import legible_shapes
    from statefilm.data.world.tasks import T2I_TASKS, T2V_TASKS
    from statefilm.evaluation.world import (
        Results,
        evaluate_t2i,
        evaluate_t2v,
        generator,
        write_page,
    )
    from statefilm.evaluation.world.motion import MIN_FRAMES
    from statefilm.pipelines import HTHPipeline, load_pipeline, resolve_model
    from statefilm.pipelines.checkpoint import model_hash
    from statefilm.pipelines.sampling import default_sampler, make_scheduler

    console = Console(json=as_json, quiet=quiet)
    chosen = _tasks(tasks, T2I_TASKS)
    chosen_clips = _tasks(clip_tasks, T2V_TASKS)
    video = video and bool(chosen_clips)
    judged = [*chosen, *chosen_clips] if video else chosen
    grids = [f"{task}.{end}.png" for task in judged for end in ("best", "worst")]
    _claim(output, force, "index.html", *grids)
    if not chosen and not video:
        raise CommandError("nothing to score: no tasks and no video")
    pipe = load_pipeline(model, dtype, device, kind=HTHPipeline)
    pipe.set_progress_bar_config(disable=True)
    num_frames = pipe.config.default_num_frames
    if video:
        check_stepped("num_frames", num_frames, pipe.size_steps[0], offset=1)
        if num_frames < MIN_FRAMES:
            raise CommandError(
                f"clips of {num_frames} frames are too short to score, below {MIN_FRAMES}",
                "--no-video leaves them out",
            )
    settings: dict[str, Any] = {
        "num_inference_steps": value_or(steps, pipe.config.default_steps),
        "guidance_scale": guidance_scale,
        "sampler": value_or(sampler, default_sampler(pipe.scheduler)),
        "shift": shift,
    }
    make_scheduler(pipe.scheduler, settings["sampler"], settings["num_inference_steps"], shift)
    used = {
        "guidance_scale": value_or(guidance_scale, pipe.default_guidance(1)),
        "shift": value_or(shift, pipe.default_shift(1)),
    }
    if video:
        used |= {
            "video_guidance_scale": value_or(guidance_scale, pipe.default_guidance(num_frames)),
            "video_shift": value_or(shift, pipe.default_shift(num_frames)),
        }
    run = {"model": model, "model_hash": model_hash(resolve_model(model)), **settings, **used}
    results = Results({})

    def shapes(frames: int) -> Sequence[str]:
        return legible_shapes(min(pipe.default_size(frames)))

    if chosen:
        with _bar(console, "image") as show:
            results |= evaluate_t2i(
                generator(pipe, 1, **settings),
                images_per_task=images_per_task,
                tasks=chosen,
                shapes=shapes(1),
                seed=seed,
                batch_size=batch_size,
                progress=show,
            )
    if video:
        with _bar(console, "clip") as show:
            results |= evaluate_t2v(
                generator(pipe, num_frames, **settings),
                clips=clips,
                tasks=chosen_clips,
                shapes=shapes(num_frames),
                seed=seed,
                batch_size=max(1, batch_size // 4),
                progress=show,
            )
    results = _hand_out(results, run, output, console)
    if output is not None:
        console.note(f"written: {write_page(results, output, f'{model} on the checkable world')}")


@app.command()
def clips(
    model: options.Model,
    world: Annotated[
        str | None,
        typer.Option("--world", help="balls, maze or glyphs. [the one whose classes it has]"),
    ] = None,
    clips: Annotated[int, typer.Option("--clips", min=16, help="So many.")] = 64,
    num_frames: Annotated[
        int | None, typer.Option("--num-frames", min=1, help="Of each. [the model's]")
    ] = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    seed: Seed = 0,
    batch_size: BatchSize = 4,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    output: Output = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Hold the clips of a video U-Net to the laws of the world that it was trained on."""
    from statefilm.data.worlds import WORLDS
    from statefilm.evaluation.clips import clip_generator, evaluate_clips
    from statefilm.pipelines import VideoDiffusionPipeline, load_pipeline, resolve_model
    from statefilm.pipelines.checkpoint import model_hash
    from statefilm.pipelines.sampling import default_sampler, make_scheduler

    console = Console(json=as_json, quiet=quiet)
    _claim(output, force)
    pipe = load_pipeline(model, dtype, device, kind=VideoDiffusionPipeline)
    pipe.set_progress_bar_config(disable=True)
    if pipe.reads_text:
        raise CommandError(f"{model} reads text: models of classes, or of neither, can be judged")
    names = tuple(pipe.config.class_names or ())
    known = {own.class_names: name for name, own in WORLDS.items()}
    if world is None and names not in known:
        raise CommandError(
            f"{model} does not say which world it knows", f"give --world {' or '.join(WORLDS)}"
        )
    size, width = pipe.config.default_height, pipe.config.default_width
    if size != width:
        raise CommandError(f"{model} makes frames of {width}x{size}: the worlds are square")
    length = value_or(num_frames, pipe.config.default_num_frames)
    settings: dict[str, Any] = {
        "num_inference_steps": value_or(steps, pipe.config.default_steps),
        "sampler": value_or(sampler, default_sampler(pipe.scheduler)),
    }
    make_scheduler(pipe.scheduler, settings["sampler"], settings["num_inference_steps"])
    if names:
        settings["guidance_scale"] = value_or(guidance_scale, pipe.config.default_guidance_scale)
    chosen = known[names] if world is None else world
    with _bar(console, "clip") as show:
        results, _ = evaluate_clips(
            clip_generator(pipe, length, **settings),
            chosen,
            clips=clips,
            num_frames=length,
            size=size,
            by_class=known.get(names) == chosen,
            seed=seed,
            batch_size=batch_size,
            progress=show,
        )
    run = {
        "model": model,
        "model_hash": model_hash(resolve_model(model)),
        "world": chosen,
        "num_frames": length,
        "seed": seed,
        **settings,
    }
    _hand_out(results, run, output, console)


@app.command()
def vae(
    model: Annotated[
        Path, typer.Option("--model", "-m", help="A VAE's folder, or a run or pipeline with one.")
    ],
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Clean scenes to read.")] = 500,
    clips: Annotated[int, typer.Option("--clips", min=0, help="Clips to read; 0 for none.")] = 50,
    num_frames: Annotated[int, typer.Option("--num-frames", min=1, help="Of the clips.")] = 9,
    size: Annotated[int, typer.Option("--size", min=32, max=256, help="Side in pixels.")] = 64,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    device: options.Device = "auto",
    output: Output = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read scenes and clips of the world back from a VAE's reconstructions."""
    from statefilm.evaluation.world import evaluate_vae
    from statefilm.models.vae import load_vae
    from statefilm.pipelines.checkpoint import model_hash
    from statefilm.pipelines.loading import pick_device, vae_folder

    console = Console(json=as_json, quiet=quiet)
    _claim(output, force, "scene.wrong.png")
    folder = vae_folder(str(model))
    loaded = load_vae(folder).to(pick_device(device))
    with _bar(console, "sample") as show:
        results = evaluate_vae(
            loaded,
            scenes=scenes,
            clips=clips,
            num_frames=num_frames,
            size=size,
            seed=seed,
            batch_size=batch_size,
            progress=show,
        )
    run = {"model": str(model), "model_hash": model_hash(folder), "size": size, "seed": seed}
    ratios = [f"{value:.1f} dB ({name})" for name, value in results.details["psnr"].items()]
    _hand_out(results, run, output, console, f"\nPSNR: {', '.join(ratios)}")


def _tasks(given: str | None, valid: Sequence[str]) -> list[str]:
    """The tasks of a flag, all where it was not given."""
    named = valid if given is None else [task for task in given.split(",") if task]
    chosen = list(dict.fromkeys(named))
    for task in chosen:
        if task not in valid:
            raise suggest(task, valid, "task")
    return chosen


@contextmanager
def _bar(console: Console, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as what takes how many of how many samples are done."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=not console.progress) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _hand_out(
    results: Results, run: dict[str, Any], output: Path | None, console: Console, notes: str = ""
) -> Results:
    """Write and print the results with what they were made of, which is returned with them."""
    results = replace(results, details={**results.details, "run": run})
    if output is not None:
        console.note(f"written: {results.write(output)}")
    print(json.dumps(results.as_dict()) if console.json else f"{results.table()}{notes}")
    return results


def _claim(folder: Path | None, force: bool, *names: str) -> None:
    """Refuse a folder that has a file of the command's own, `names` beside results.json."""
    if folder is not None:
        outputs.claim([folder / name for name in ("results.json", *names)], force=force)
