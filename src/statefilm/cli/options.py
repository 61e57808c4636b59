"""Flags that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_MODEL = "world-64"

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="A local folder or the name of a bundled model."
    ),
]
Prompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What to make.", show_default=False)
]
Prompts = Annotated[
    list[str],
    typer.Option("--prompt", "-p", metavar="PROMPT", help="Another prompt; may be repeated."),
]
PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts-file",
        metavar="FILE",
        help="Prompts from a txt (one a line), jsonl or csv file; the latter two may hold "
        "negative_prompt and seed.",
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option("--negative-prompt", "-n", metavar="TEXT", help="What to keep away from."),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="Denoising steps. [the model's own]"),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        "-g",
        metavar="X",
        min=0,
        help="Weight of the prompt; 1 is off. [the model's own]",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="NAME",
        help="flow_euler, flow_ancestral, dpm++, unipc, ddim or ddpm, as the model allows. "
        "[the model's own]",
    ),
]
Shift = Annotated[
    float | None,
    typer.Option(
        "--shift",
        metavar="X",
        min=0,
        help="Above 1 spends more steps at high noise; flow models only. [the model's own]",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", "-s", metavar="N", min=0, help="Sample i uses seed + i. [random]"),
]
Height = Annotated[int | None, typer.Option("--height", "-H", metavar="N", min=1, help="Pixels.")]
Width = Annotated[int | None, typer.Option("--width", "-W", metavar="N", min=1, help="Pixels.")]
Size = Annotated[str | None, typer.Option("--size", metavar="WxH", help="Pixels as WIDTHxHEIGHT.")]
Number = Annotated[
    int, typer.Option("--num", "-N", metavar="N", min=1, help="Samples of each prompt or label.")
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Samples made at once; above 1 the last bits may differ.",
    ),
]
Grid = Annotated[bool, typer.Option("--grid", help="All samples on one sheet, in one file.")]
Preview = Annotated[
    Path | None,
    typer.Option(
        "--preview", metavar="FILE", help="A PNG, renewed every few steps, of what is being made."
    ),
]
Labels = Annotated[
    list[str],
    typer.Option(
        "--label",
        metavar="CLASS",
        help="Name or number of a class, for a model of classes; may be repeated.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="N",
        min=1,
        help="Denoise N frames at once, for clips too long for one go (video U-Nets). [all]",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        metavar="M",
        min=0,
        help="Frames that a window shares with the one before. [half a window]",
    ),
]
FirstFrames = Annotated[
    Path | None,
    typer.Option(
        "--first-frames",
        metavar="FILE",
        help="An MP4, a PNG or a folder of PNGs to go on from; they are the clip's first frames "
        "and --num-frames counts them (video U-Nets).",
    ),
]
Fps = Annotated[
    float | None, typer.Option("--fps", metavar="X", help="Frames a second. [the model's own]")
]
Dtype = Annotated[
    str, typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16.")
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps ...")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the denoiser's blocks first.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="A file, a folder, or a pattern with {i}, {seed}, {prompt}. [folder outputs]",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave out what exists.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Paths and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks and details.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check all input, write nothing.")]


def value_or(value: Any, default: Any) -> Any:
    """A flag's value, or the model's own where the flag was not given (0 is a value)."""
    return default if value is None else value
