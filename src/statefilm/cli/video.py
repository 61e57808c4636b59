"""`statefilm video`: prompts or labels to MP4 files."""

from __future__ import annotations

from typing import Annotated

import typer

from statefilm.cli import options
from statefilm.cli.console import Console
from statefilm.cli.errors import CommandError


def video(
    prompt: options.Prompt = None,
    prompts: options.Prompts = [],  # noqa: B006  (read by the parser only)
    prompts_file: options.PromptsFile = None,
    model: options.Model = options.DEFAULT_MODEL,
    negative_prompt: options.NegativePrompt = None,
    labels: options.Labels = [],  # noqa: B006  (read by the parser only)
    num_frames: Annotated[
        int | None,
        typer.Option("--num-frames", metavar="N", min=1, help="Frames. [the model's own]"),
    ] = None,
    fps: options.Fps = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="X", help="Length, in place of --num-frames."),
    ] = None,
    window: options.Window = None,
    overlap: options.Overlap = None,
    first_frames: options.FirstFrames = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    shift: options.Shift = None,
    seed: options.Seed = None,
    height: options.Height = None,
    width: options.Width = None,
    size: options.Size = None,
    num: options.Number = 1,
    batch_size: options.BatchSize = 1,
    grid: options.Grid = False,
    save_frames: Annotated[
        bool, typer.Option("--save-frames", help="Also a folder of PNG frames beside each MP4.")
    ] = False,
    strip: Annotated[
        int | None,
        typer.Option(
            "--strip",
            metavar="N",
            min=1,
            help="Also a PNG beside each MP4: N of its frames, first to last, in a row a clip.",
        ),
    ] = None,
    output: options.Output = None,
    force: options.Force = False,
    skip_existing: options.SkipExisting = False,
    preview: options.Preview = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    compile: options.Compile = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    dry_run: options.DryRun = False,
) -> int:
    """Make videos from text, from class labels, or from noise alone, as the model reads.

    They are written as MP4, with what made them inside and in a JSON file beside each.
    """
    from statefilm.cli.generate import generate
    from statefilm.cli.prompts import collect
    from statefilm.cli.request import Request, parse_size

    height, width = parse_size(size, height, width)
    if num_frames is not None and seconds is not None:
        raise CommandError("--num-frames and --seconds at once", "give one of them")
    for name, value in (("fps", fps), ("seconds", seconds)):
        if value is not None and not 0 < value < 1000:
            raise CommandError(f"{name} {value} is not between 0 and 1000")
    request = Request(
        kind="video",
        model=model,
        prompts=collect(prompt, prompts, prompts_file, labels),
        negative_prompt=negative_prompt,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        shift=shift,
        seed=seed,
        height=height,
        width=width,
        num_frames=num_frames,
        seconds=seconds,
        fps=fps,
        window=window,
        overlap=overlap,
        first_frames=first_frames,
        num=num,
        batch_size=batch_size,
        grid=grid,
        save_frames=save_frames,
        strip=strip,
        preview=preview,
        dtype=dtype,
        device=device,
        compile=compile,
        output=output,
        force=force,
        skip_existing=skip_existing,
        dry_run=dry_run,
    )
    return generate(request, Console(json=as_json, quiet=quiet))
