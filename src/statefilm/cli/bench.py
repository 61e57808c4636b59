"""`statefilm bench`: the speed and memory of ops, denoisers and generations, measured here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statefilm.cli import options, outputs
from statefilm.cli.console import Console
from statefilm.cli.errors import CommandError, OutOfMemory
from statefilm.cli.info import PUBLISHED_VAE, SIZES, fit
from statefilm.cli.memory import available_memory
from statefilm.errors import suggest

if TYPE_CHECKING:
    import torch

    from statefilm.evaluation.speed.report import Report
    from statefilm.evaluation.speed.timing import Protocol

app = typer.Typer(
    help="Measure speed and memory: a table, results.json and a plot.", rich_markup_mode=None
)

LENGTHS = ",".join(str(2**power) for power in range(8, 17))
# Frames, height and width in pixels, under the first word of the size's name.
NAMED_SIZES = {"256p": ("256p image", 1, 256, 256)} | {size[0].split()[0]: size for size in SIZES}

Rounds = Annotated[
    int, typer.Option("--rounds", min=1, help="Turns of each contestant; the median counts.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads. [torch's own]")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="A folder for results.json, table.md and plot.png."),
]


@app.command()
def ops(
    lengths: Annotated[
        str, typer.Option("--lengths", help="Tokens of a sequence, with commas.")
    ] = LENGTHS,
    dim: Annotated[int, typer.Option("--dim", min=1, help="Width of the tokens.")] = 1024,
    head_dim: Annotated[int, typer.Option("--head-dim", min=1, help="Size of a head.")] = 64,
    state_dim: Annotated[
        int, typer.Option("--state-dim", min=1, help="State size of the state-space ops.")
    ] = 64,
    groups: Annotated[
        int, typer.Option("--groups", min=1, help="Groups of heads that share B and C.")
    ] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sequences of a call.")] = 1,
    budget: Annotated[
        float,
        typer.Option(
            "--budget", help="Seconds; a call expected to take longer is left out.", min=0
        ),
    ] = 10,
    rounds: Rounds = 5,
    threads: Threads = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    output: Output = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time the quasiseparable op beside attention and others as the sequence grows.

    Forward, and forward with all gradients; every backend that runs here; from which length on
    the state-space op is faster than attention.
    """
    from statefilm.evaluation.speed.floors import OpShape
    from statefilm.evaluation.speed.machine import threads as torch_threads
    from statefilm.evaluation.speed.ops import measure_ops

    console = Console(json=as_json, quiet=quiet)
    _check_output(output, force)
    shape = OpShape(1, batch, dim, head_dim, state_dim, groups)
    wanted = whole_numbers(lengths, "lengths")
    chosen, number = _device_and_dtype(device, dtype)
    protocol = _protocol(console, rounds, available_memory(chosen), budget)
    with torch_threads(threads):
        report = measure_ops(shape, wanted, dtype=number, device=chosen, protocol=protocol)
    _finish(report, output, console)


@app.command()
def denoiser(
    models: Annotated[
        str, typer.Option("--models", help="Presets, with commas; ratios are to the first.")
    ] = "hth_300m,dit_300m",
    sizes: Annotated[
        str,
        typer.Option("--sizes", help=f"Of {', '.join(NAMED_SIZES)} (the last two: 128 frames)."),
    ] = "256p,1K",
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", help="Images of so many tokens, with commas, in place of --sizes"),
    ] = None,
    sets: Annotated[
        int | None,
        typer.Option("--sets", min=1, help="Only so many sets of 11 blocks. [all of them]"),
    ] = None,
    guidance: Annotated[
        bool, typer.Option("--guidance", help="A batch of two, as guidance needs.")
    ] = False,
    backward: Annotated[
        bool, typer.Option("--backward", help="Also a training step of the network.")
    ] = False,
    rounds: Rounds = 5,
    threads: Threads = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    output: Output = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time one denoising step of hybrids and transformers of the same size.

    Weights are random. Shows which mixers and sublayers take the time.
    """
    from statefilm.evaluation.speed.denoiser import measure_denoisers, on_meta
    from statefilm.evaluation.speed.machine import threads as torch_threads

    console = Console(json=as_json, quiet=quiet)
    _check_output(output, force)
    shapes = {preset: on_meta(preset, sets) for preset in _words(models)}
    latents = latents_of(shapes, sizes, tokens)
    chosen, number = _device_and_dtype(device, dtype)
    memory = _memory_beside_weights(shapes, chosen, number)
    with torch_threads(threads):
        report = measure_denoisers(
            list(shapes),
            latents,
            dtype=number,
            device=chosen,
            protocol=_protocol(console, rounds, memory),
            guidance=guidance,
            backward=backward,
            sets=sets,
        )
    _finish(report, output, console)


@app.command()
def generate(
    model: options.Model = options.DEFAULT_MODEL,
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", help="Samples made at once, with commas.")
    ] = "1,4",
    steps: options.Steps = None,
    video: Annotated[bool, typer.Option(help="Also clips.")] = True,
    rounds: Rounds = 3,
    threads: Threads = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    output: Output = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time whole images and clips of a model: text, denoising, decoding, saving."""
    from statefilm.evaluation.speed.generate import measure_generation
    from statefilm.evaluation.speed.machine import threads as torch_threads
    from statefilm.pipelines import HTHPipeline, load_pipeline

    console = Console(json=as_json, quiet=quiet)
    _check_output(output, force)
    batches = whole_numbers(batch_sizes, "batch-sizes")
    pipe = load_pipeline(model, dtype, device, kind=HTHPipeline)
    pipe.set_progress_bar_config(disable=True)
    with torch_threads(threads):
        report = measure_generation(
            pipe,
            batch_sizes=batches,
            protocol=_protocol(console, rounds),
            steps=steps,
            video=video,
            name=model,
        )
    _finish(report, output, console)


def whole_numbers(text: str, name: str) -> list[int]:
    """Numbers of a flag with commas: "256,512" as [256, 512].

    Raises:
        CommandError: something else, no number, or one below 1.
    """
    words = _words(text)
    if not words or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise CommandError(f"{name} {text!r} are not whole numbers >= 1 with commas between")
    return [int(word) for word in words]


def latents_of(
    denoisers: Mapping[str, Any], sizes: str, tokens: str | None = None
) -> dict[str, tuple[int, int, int]]:
    """Frames, rows and columns of the latents, by the name of each size.

    Args:
        denoisers: those that all take them, by preset, on any device.
        sizes: names of `NAMED_SIZES`, with commas.
        tokens: numbers of tokens, with commas; in place of sizes.

    Raises:
        CommandError: the denoisers take different latents, or no size is named.
        ValueError: an unknown size.
    """
    from statefilm.evaluation.speed.denoiser import image_of_tokens

    if not denoisers:
        raise CommandError("nothing to measure: no models")
    configs = {name: denoiser.config for name, denoiser in denoisers.items()}
    inputs = {(c["in_channels"], tuple(c["patch_size"])) for c in configs.values()}
    if len(inputs) != 1:
        raise CommandError(f"{', '.join(configs)} take different latents", "compare like with like")
    ((channels, patch),) = inputs
    if tokens is not None:
        return {f"{n} tokens": image_of_tokens(n, patch) for n in whole_numbers(tokens, "tokens")}
    known = {name.lower(): name for name in NAMED_SIZES}
    vae = (1, 1, 1) if channels == 3 else PUBLISHED_VAE
    found = {}
    for word in _words(sizes):
        if word.lower() not in known:
            raise suggest(word, NAMED_SIZES, "size")
        label, *pixels = NAMED_SIZES[known[word.lower()]]
        found[label] = fit(pixels, vae, patch)[0]
    if not found:
        raise CommandError("nothing to measure: no sizes")
    return found


def _memory_beside_weights(denoisers: Mapping[str, Any], device: Any, dtype: Any) -> int | None:
    """Bytes left when all denoisers are loaded.

    Raises:
        OutOfMemory: they do not fit.
    """
    free = available_memory(device)
    numbers = sum(p.numel() for model in denoisers.values() for p in model.parameters())
    needed = numbers * dtype.itemsize
    if free is not None and needed > free:
        raise OutOfMemory(
            f"the weights of {', '.join(denoisers)} take {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free",
            "--sets 1 keeps 11 blocks of each",
        )
    return None if free is None else free - needed


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _check_output(folder: Path | None, force: bool) -> None:
    from statefilm.evaluation.speed.report import FILES

    outputs.claim([] if folder is None else [folder / name for name in FILES], force=force)


def _device_and_dtype(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    from statefilm.pipelines.loading import pick_device, pick_dtype

    chosen = pick_device(device)
    return chosen, pick_dtype(dtype, chosen)


def _protocol(
    console: Console, rounds: int, memory: int | None = None, budget: float = math.inf
) -> Protocol:
    from statefilm.evaluation.speed.timing import Protocol

    return Protocol(rounds, budget=budget, memory=memory, note=console.note)


def _finish(report: Report, folder: Path | None, console: Console) -> None:
    """Write the files, and print the table or with `--json` all of it."""
    from statefilm.evaluation.speed.report import NO_PLOT

    if folder is not None:
        written = report.write(folder)
        console.note(f"written: {', '.join(map(str, written))}")
        if len(written) < 3:
            console.note(NO_PLOT)
    print(json.dumps(report.as_dict()) if console.json else report.table())
