"""What to change so that a run fits, or uses what there is: a sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from statefilm.training.planning.layout import Layout

if TYPE_CHECKING:
    from statefilm.training.planning.plan import Planner, Settings

__all__ = ["advise"]

MOST_DEVICES = 4096
CONTEXTS = (2, 4, 8, 16)


def advise(planner: Planner) -> Iterator[str]:
    """Changes, the cheapest first; each sentence names the recipe's keys."""
    settings = planner.settings
    if planner.fits(settings):
        yield from _of_a_run_that_fits(planner)
        return
    found = False
    for label, changed in _changes(planner):
        parts = _accumulation(planner, changed)
        if parts is None:
            continue
        found = True
        asked = [label] if label else []
        if parts > changed.accumulate:
            asked.append(f"accumulate={parts}")
        yield f"{' '.join(asked)}: {_outcome(planner, replace(changed, accumulate=parts))}"
    for sentence in _more_devices(planner):
        found = True
        yield sentence
    if not found:
        yield f"nothing fits on up to {MOST_DEVICES} devices: take a smaller model or size"


def _of_a_run_that_fits(planner: Planner) -> Iterator[str]:
    settings = planner.settings
    plain = replace(settings, checkpointing=False)
    if settings.checkpointing and planner.fits(plain):
        outcome = _outcome(planner, plain)
        yield f"gradient_checkpointing=false fits too and saves a quarter of the work: {outcome}"
    fewer = replace(settings, accumulate=1)
    if settings.accumulate > 1 and planner.fits(fewer):
        yield f"accumulate=1 fits too: {_outcome(planner, fewer)}"


def _changes(planner: Planner) -> Iterator[tuple[str, Settings]]:
    """The settings that may help, beside accumulation, with the changes that make them."""
    settings, hardware = planner.settings, planner.hardware
    yield "", settings
    checkpointed = settings
    prefix = ""
    if planner.shell.can_checkpoint and not settings.checkpointing:
        checkpointed, prefix = replace(settings, checkpointing=True), "gradient_checkpointing=true "
        yield prefix.strip(), checkpointed
    layout = settings.layout
    if layout.devices > layout.cuts:
        cut = Layout(1, layout.sample_parts, layout.context)
        label = f"parallel.replicate=1 parallel.shard={cut.shard}"
        yield label, replace(settings, layout=cut)
        yield prefix + label, replace(checkpointed, layout=cut)
    if planner.blocks:
        for context in CONTEXTS:
            shard, rest = divmod(hardware.devices, context)
            if shard and not rest and context > layout.context and planner.can_split(context):
                label = f"parallel.replicate=1 parallel.shard={shard} parallel.context={context}"
                label = f"compile=none {label}" if planner.shell.compiled else label
                yield prefix + label, replace(checkpointed, layout=Layout(1, shard, context))


def _more_devices(planner: Planner) -> Iterator[str]:
    """The fewest devices, twice as many each time, over which a sample fits."""
    checkpointing = planner.shell.can_checkpoint or planner.settings.checkpointing
    devices = 2 * planner.hardware.devices
    while devices <= MOST_DEVICES:
        layout = Layout(1, devices, 1)
        settings = replace(planner.settings, layout=layout, checkpointing=checkpointing)
        largest = [planner.largest(number, settings) for number in planner.loads]
        if all(largest):
            prefix = "gradient_checkpointing=true " if checkpointing else ""
            most = ", ".join(map(str, largest))
            change = f"{prefix}parallel.shard={devices} on {devices} devices"
            yield f"{change}: micro-batches up to {most}"
            return
        devices *= 2


def _accumulation(planner: Planner, settings: Settings) -> int | None:
    """The fewest parts of a batch with which the settings fit; None if none do."""
    sizes = [load.batch_size for load in planner.shell.loads]
    shares, rests = zip(
        *(divmod(size, settings.layout.sample_parts) for size in sizes), strict=True
    )
    if any(rests) or not all(shares):
        return None
    for parts in range(settings.accumulate, max(shares) + 1):
        divides = all(share % parts == 0 for share in shares)
        if divides and planner.fits(replace(settings, accumulate=parts)):
            return parts
    return None


def _outcome(planner: Planner, settings: Settings) -> str:
    most = max(planner.memory(number, settings).total for number in planner.loads)
    return f"{most / 1e9:.3g} GB a device, micro-batches of {_samples(planner, settings)}"


def _samples(planner: Planner, settings: Settings) -> str:
    return ", ".join(str(planner.micro_batch(number, settings)) for number in planner.loads)
