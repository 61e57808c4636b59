"""What a run will take, said before it starts: memory, work, communication and days."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from statefilm.errors import UsageError
from statefilm.models.blocks import HTHBlock
from statefilm.training.parallel.apply import check_compile
from statefilm.training.parallel.context import check_split, split_problem
from statefilm.training.planning.advice import advise
from statefilm.training.planning.layout import (
    Communication,
    Layout,
    ModelBytes,
    communication,
    layout_of,
    width_of,
)
from statefilm.training.planning.ledger import Counts
from statefilm.training.planning.shells import Load, Shell, recipe_shell
from statefilm.training.recipe import Optimizer, Recipe

__all__ = ["Hardware", "LoadPlan", "Plan", "Planner", "Settings", "plan_recipe"]

# Of a device's memory; the rest is for the driver, libraries' workspaces and gaps.
USABLE = 0.95
MOST_SAMPLES = 1 << 16


@dataclass(frozen=True)
class Hardware:
    """What a run is planned for.

    Attributes:
        devices: how many.
        memory: bytes of each.
        rate: operations a second of each at its peak, in the precision of the run.
        utilisation: the share of that rate which the run reaches (MFU), recomputation included.
        cuda: whether layers take the forms that they have on CUDA devices.
    """

    devices: int
    memory: int
    rate: float
    utilisation: float = 0.4
    cuda: bool = True


@dataclass(frozen=True)
class Settings:
    """How a run divides its work.

    Attributes:
        layout: of the devices.
        accumulate: parts of a batch that are passed one after the other.
        checkpointing: of activations.
    """

    layout: Layout
    accumulate: int = 1
    checkpointing: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step.

    Attributes:
        weights, optimizer, average, frozen: there all the time.
        gradients: when all are there.
        activations: what the forward keeps for the backward, weight copies included.
        gathered: whole parameters and gradients of blocks, beside the device's own part of them.
        step: the most that gradients, activations and all else take together in a step.
    """

    weights: int
    optimizer: int
    average: int
    frozen: int
    gradients: int
    activations: int
    gathered: int
    step: int

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.average + self.frozen + self.step


@dataclass(frozen=True)
class LoadPlan:
    """One kind of batch on one device.

    Attributes:
        load: what it is.
        micro_batch: samples that are passed at a time by one context group.
        activations, checkpointed: bytes kept for the backward of a micro-batch, without and with
            activation checkpointing (None where models cannot); copies of weights left out.
        memory: at the peak, with the run's settings.
        largest: the largest micro-batch that fits; 0 if none does.
        flops: of a step on all devices, forward and backward, recomputation included.
        communication: of one device in a step.
        seconds: of a step.
    """

    load: Load
    micro_batch: int
    activations: int
    checkpointed: int | None
    memory: Memory
    largest: int
    flops: int
    communication: Communication
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.load.batch_size * self.load.tokens / self.seconds


@dataclass(frozen=True)
class Plan:
    """The whole.

    Attributes:
        name: of the recipe or preset.
        model: bytes before they are cut over devices, and numbers of parameters.
        frozen: number of parameters of each module that runs along untrained.
        advice: what to change, a sentence each; of a run that fits, what else would.
        steps: of the recipe; None of a preset, which has none.
    """

    name: str
    hardware: Hardware
    settings: Settings
    precision: str
    model: ModelBytes
    frozen: dict[str, int]
    loads: tuple[LoadPlan, ...]
    advice: tuple[str, ...]
    steps: int | None

    @property
    def fits(self) -> bool:
        """Whether every kind of batch does."""
        return all(fits(load.memory, self.hardware) for load in self.loads)

    @property
    def seconds(self) -> float:
        """Of a step, in the mean over the kinds of batches."""
        weight = sum(load.load.weight for load in self.loads)
        return sum(load.load.weight * load.seconds for load in self.loads) / weight

    @property
    def tokens_per_second(self) -> float:
        weight = sum(load.load.weight for load in self.loads)
        tokens = sum(one.load.weight * one.load.batch_size * one.load.tokens for one in self.loads)
        return tokens / weight / self.seconds

    @property
    def days(self) -> float | None:
        return None if self.steps is None else self.steps * self.seconds / 86400

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        loads = [
            {
                **asdict(load),
                "total": load.memory.total,
                "fits": fits(load.memory, self.hardware),
                "tokens_per_second": load.tokens_per_second,
            }
            for load in self.loads
        ]
        summary = ("fits", "seconds", "tokens_per_second", "days")
        return {**asdict(self), "loads": loads} | {name: getattr(self, name) for name in summary}


def fits(memory: Memory, hardware: Hardware) -> bool:
    """Whether it does, `USABLE` being what there is."""
    return memory.total <= USABLE * hardware.memory


def plan_recipe(recipe: Recipe, hardware: Hardware) -> Plan:
    """The plan of a recipe with its own batches, accumulation, precision and parallel section.

    Raises:
        ValueError, FileNotFoundError: the recipe does not fit the devices or names what is not
            there; one line.
    """
    layout = layout_of(recipe.parallel, hardware.devices)
    check_compile(layout.context, recipe)
    checkpointing = getattr(recipe, "gradient_checkpointing", False)
    settings = Settings(layout, recipe.accumulate, checkpointing)
    planner = Planner(recipe_shell(recipe), recipe.optimizer, hardware, settings)
    return planner.plan(recipe.name, recipe.steps)


class Planner:
    """Weighs settings of one training step against hardware.

    The step is counted with the run's own micro-batches, with and without checkpointing. Others are
    taken in proportion.

    Args:
        shell: the step.
        optimizer: the recipe's section.
        hardware: what there is.
        settings: of the run.

    Raises:
        UsageError: the batches cannot be shared so.
    """

    def __init__(
        self, shell: Shell, optimizer: Optimizer, hardware: Hardware, settings: Settings
    ) -> None:
        self.shell, self.hardware, self.settings = shell, hardware, settings
        self.loads = range(len(shell.loads))
        self.blocks = [m for m in shell.modules.modules() if isinstance(m, HTHBlock)]
        for number in self.loads:
            self._check(number)
        if settings.layout.context > 1:
            check_split(shell.modules, shell.lengths, settings.layout.context)
        self.model = ModelBytes.of(
            shell.modules, shell.frozen.values(), shell.optimizer_bytes(optimizer)
        )
        self._counts: dict[tuple[int, bool], Counts] = {}

    def plan(self, name: str, steps: int | None) -> Plan:
        """The plan with the run's settings, and what to change."""
        plan = Plan(
            name=name,
            hardware=self.hardware,
            settings=self.settings,
            precision=self.shell.precision,
            model=self.model,
            frozen={
                k: sum(p.numel() for p in m.parameters()) for k, m in self.shell.frozen.items()
            },
            loads=tuple(map(self._load, self.loads)),
            advice=(),
            steps=steps,
        )
        return replace(plan, advice=tuple(advise(self)))

    def micro_batch(self, number: int, settings: Settings) -> int:
        """Samples of a load that are passed at a time by one context group."""
        parts = settings.layout.sample_parts * settings.accumulate
        return -(-self.shell.loads[number].batch_size // parts)

    def memory(self, number: int, settings: Settings, samples: int | None = None) -> Memory:
        """Of a load at the peak of a step; the micro-batch is by default what the settings give."""
        samples = self.micro_batch(number, settings) if samples is None else samples
        own = self.micro_batch(number, self.settings)
        counts = self._count(number, settings.checkpointing)
        model, layout, copies = self.model, settings.layout, counts.weight_copies

        def scaled(size: int) -> int:
            return (
                self._split(round(size * samples / own), number, samples, layout.context) + copies
            )

        gradients = model.gradients // layout.cuts
        peak = scaled(counts.peak_without_gradients - copies)
        if layout.cuts > 1:
            # Weights of a block and the next one, gradients of a block and the last one.
            gathered = min(4 * model.largest_block, 2 * model.weights)
            step = gradients + peak + gathered
        else:
            # All gradients in one piece, for their exchange.
            gathered = model.gradients if layout.devices > 1 else 0
            step = gradients + max(peak, gathered)
            if layout.devices == settings.accumulate == 1 and samples == own:
                step = max(counts.peak, gradients)  # gradients come as activations go
        return Memory(
            weights=model.weights // layout.cuts,
            optimizer=model.optimizer // layout.cuts,
            average=model.average // layout.cuts,
            frozen=model.frozen,
            gradients=gradients,
            activations=scaled(counts.activations),
            gathered=gathered,
            step=step,
        )

    def can_split(self, context: int) -> bool:
        """Whether so many processes can share the tokens of a sample."""
        return split_problem(self.shell.modules, self.shell.lengths, context) is None

    def fits(self, settings: Settings) -> bool:
        """Whether all loads do, with the micro-batches that the settings give."""
        return all(fits(self.memory(number, settings), self.hardware) for number in self.loads)

    def largest(self, number: int, settings: Settings) -> int:
        """The largest micro-batch of a load that fits, 0 if none does."""
        low, high = 0, MOST_SAMPLES
        while low < high:
            middle = (low + high + 1) // 2
            if fits(self.memory(number, settings, middle), self.hardware):
                low = middle
            else:
                high = middle - 1
        return low

    def _load(self, number: int) -> LoadPlan:
        load, settings = self.shell.loads[number], self.settings
        samples = self.micro_batch(number, settings)
        counts = self._count(number, settings.checkpointing)
        passes = 4 if settings.checkpointing else 3  # a backward is two forwards
        flops = passes * counts.trained_flops + counts.frozen_flops
        flops = flops * load.batch_size // samples
        hardware, can_checkpoint = self.hardware, self.shell.can_checkpoint
        return LoadPlan(
            load=load,
            micro_batch=samples,
            activations=self._count(number, False).activations,
            checkpointed=self._count(number, True).activations if can_checkpoint else None,
            memory=self.memory(number, settings),
            largest=self.largest(number, settings),
            flops=flops,
            communication=communication(
                settings.layout,
                self.model,
                self.blocks,
                tokens=samples * load.tokens,
                parts=settings.accumulate,
                itemsize=2 if self.shell.precision == "bfloat16" else 4,
            ),
            seconds=flops / (hardware.rate * hardware.utilisation * hardware.devices),
        )

    def _count(self, number: int, checkpointing: bool) -> Counts:
        """Of the run's own micro-batch of a load, whole sequences on one device."""
        key = number, checkpointing
        if key not in self._counts:
            samples = self.micro_batch(number, self.settings)
            self._counts[key] = self.shell.count(
                number, samples, checkpointing=checkpointing, cuda=self.hardware.cuda
            )
        return self._counts[key]

    def _split(self, size: int, number: int, samples: int, context: int) -> int:
        """Bytes of activations when tokens are split: a block's inputs stay whole (an estimate)."""
        length = self.shell.loads[number].tokens
        share = -(-length // context) / length  # of the process that has the most
        inputs = sum(4 * samples * length * width_of(block) for block in self.blocks)
        return round(size * share + inputs * (1 - share))

    def _check(self, number: int) -> None:
        load, layout = self.shell.loads[number], self.settings.layout
        parts = layout.sample_parts * self.settings.accumulate
        if load.batch_size % parts:
            raise UsageError(
                f"{load.name}: batch_size {load.batch_size} does not fall into replicate x shard x "
                f"accumulate = {parts} parts: the nearest valid is "
                f"{-(-load.batch_size // parts) * parts}"
            )
