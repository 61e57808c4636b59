"""`statefilm plan`: what a training run will take, said before it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from statefilm.cli import options
from statefilm.cli.errors import FAILED, OK, CommandError
from statefilm.cli.info import human
from statefilm.errors import suggest

if TYPE_CHECKING:
    from statefilm.training.planning import Hardware, Plan
    from statefilm.training.planning.plan import LoadPlan

DEFAULT_DEVICE = "h100"


def plan(
    what: Annotated[
        str,
        typer.Argument(metavar="RECIPE|PRESET", help="A YAML file, a bundled recipe or a preset."),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Changes of the recipe; of a preset num_frames, height, width, batch_size, "
            "text_tokens, precision, gradient_checkpointing, accumulate, parallel, optimizer.",
        ),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", help="Devices in all.")] = 1,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="h100, a100, ...: memory and rate.")
    ] = DEFAULT_DEVICE,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Of each, e.g. 80GB. [the device's]"),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", metavar="X", help="Peak of each. [the device's]"),
    ] = None,
    mfu: Annotated[
        float, typer.Option("--mfu", metavar="X", help="Share of the peak that is reached.")
    ] = 0.4,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> int:
    """Print what a training run takes in memory, work, communication and time.

    The step is gone through without its numbers, so that neither weights, data nor a GPU are
    needed. Exit code 1 says that it does not fit.
    """
    from statefilm.models import PRESETS, UNET_PRESETS
    from statefilm.training import load_recipe, shipped_recipes
    from statefilm.training.planning import plan_preset, plan_recipe, read_preset_run

    presets, recipes = [*PRESETS, *UNET_PRESETS], shipped_recipes()
    found: Plan
    if what in presets:
        run = read_preset_run(changes or [])
        hardware = _hardware(run.precision, gpus, device, memory, tflops, mfu)
        found = plan_preset(what, hardware, run)
    elif what not in recipes and not Path(what).suffix and len(Path(what).parts) == 1:
        raise suggest(what, [*presets, *recipes], "recipe or preset")
    else:
        recipe = load_recipe(what, changes or [])
        hardware = _hardware(recipe.precision, gpus, device, memory, tflops, mfu)
        found = plan_recipe(recipe, hardware)
    print(json.dumps(found.as_dict()) if as_json else "\n".join(render(found)))
    return OK if found.fits else FAILED


def _hardware(
    precision: str, gpus: int, device: str, memory: str | None, tflops: float | None, mfu: float
) -> Hardware:
    from statefilm.training.planning import Hardware, find_device, parse_bytes

    if gpus < 1:
        raise CommandError(f"--gpus {gpus} is not a whole number >= 1")
    if not 0 < mfu <= 1:
        raise CommandError(f"--mfu {mfu:g} is not above 0 and at most 1")
    if tflops is not None and not 0 < tflops < float("inf"):
        raise CommandError(f"--tflops {tflops:g} is not a positive number")
    known = find_device(device)
    return Hardware(
        devices=gpus,
        memory=int(known.memory) if memory is None else parse_bytes(memory),
        rate=known.rate(precision) if tflops is None else 1e12 * tflops,
        utilisation=mfu,
    )


def render(plan: Plan) -> Iterator[str]:
    """The plan as lines of text."""
    hardware, settings, layout = plan.hardware, plan.settings, plan.settings.layout
    checkpointing = "on" if settings.checkpointing else "off"
    yield plan.name
    yield (
        f"  devices      {hardware.devices} x {_size(hardware.memory)}: replicate "
        f"{layout.replicate} x shard {layout.shard} x context {layout.context}"
    )
    yield (
        f"  step         {plan.precision}, accumulate {settings.accumulate}, activation "
        f"checkpointing {checkpointing}"
    )
    frozen = "".join(f", {name} {human(n)} (frozen)" for name, n in plan.frozen.items())
    yield f"  parameters   {human(plan.model.parameters)} trained{frozen}"
    for load in plan.loads:
        yield from _load_lines(load, plan)
    yield ""
    yield (
        f"  in all       {plan.seconds:.3g} s a step, {human(plan.tokens_per_second)} tokens/s at "
        f"{hardware.utilisation:.0%} of {hardware.rate / 1e12:.4g} TFLOP/s a device"
    )
    if plan.steps is not None and plan.days is not None:
        yield f"  time         {_time(plan.days)} for {plan.steps:,} steps"
    yield ""
    yield "it fits" if plan.fits else "it does not fit"
    lead = "also: " if plan.fits else "what would: "
    yield from (f"  {lead}{line}" for line in plan.advice)


def _load_lines(load: LoadPlan, plan: Plan) -> Iterator[str]:
    memory = load.memory
    frames, height, width = load.load.size
    size = f"{width}x{height}" + (f"x{frames}" if frames > 1 else "")
    checkpointed = ""
    if load.checkpointed is not None:
        checkpointed = f", {_size(load.checkpointed)} with checkpointing"
    sent = load.communication
    kinds = {
        "all-gather": sent.all_gather,
        "reduce-scatter": sent.reduce_scatter,
        "all-reduce": sent.all_reduce,
        "all-to-all": sent.all_to_all,
    }
    talk = ", ".join(f"{name} {_size(n)}" for name, n in kinds.items() if n) or "none"
    states = (
        f"weights {_size(memory.weights)}, optimizer {_size(memory.optimizer)}, average "
        f"{_size(memory.average)}" + (f", frozen {_size(memory.frozen)}" if memory.frozen else "")
    )
    gathered = f", gathered {_size(memory.gathered)}" if memory.gathered else ""
    yield ""
    yield f"  {load.load.name}: {size}, {load.load.tokens:,} tokens, batch {load.load.batch_size}"
    yield f"    micro-batch    {load.micro_batch} a device; the largest that fits is {load.largest}"
    yield f"    activations    {_size(load.activations)}{checkpointed}"
    yield f"    kept           {states}"
    yield f"    in a step      {_size(memory.step)}: gradients {_size(memory.gradients)}{gathered}"
    yield f"    peak           {_size(memory.total)} of {_size(plan.hardware.memory)}"
    yield f"    sent           {talk}"
    yield (
        f"    work           {human(load.flops)}FLOP a step, {load.seconds:.3g} s, "
        f"{human(load.tokens_per_second)} tokens/s"
    )


def _size(count: float) -> str:
    """Bytes with three digits, in powers of 1000: 4.96 GB."""
    return human(count, (" B", " kB", " MB", " GB", " TB", " PB", " EB"))


def _time(days: float) -> str:
    """A duration in the unit that suits it."""
    for unit, length in (("days", 1.0), ("hours", 1 / 24), ("minutes", 1 / 1440)):
        if days >= length:
            return f"{days / length:.3g} {unit}"
    return f"{days * 86400:.3g} seconds"
