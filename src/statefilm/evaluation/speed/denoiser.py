"""One step of denoisers of matched size against each other, at sizes of images and clips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.floors import Rates
from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.evaluation.speed.parts import part_seconds
from statefilm.evaluation.speed.report import Report, Row
from statefilm.evaluation.speed.timing import Protocol, Run, Timing, interleave, synchronizer
from statefilm.models import PRESETS, HTHTransformer, build, hybrid_plan
from statefilm.models.flops import CROSS, activation_bytes, forward_flops, token_grid

FORWARD, TRAINING = "forward", "training step"
TEXT_TOKENS = 128
# Operations of the forward pass that a step takes: a backward pass has two products for each.
FORWARDS = {FORWARD: 1, TRAINING: 3}

Latents = tuple[int, int, int]


def measure_denoisers(
    presets: Sequence[str],
    sizes: Mapping[str, Latents],
    *,
    dtype: torch.dtype,
    device: torch.device,
    protocol: Protocol,
    guidance: bool = False,
    backward: bool = False,
    sets: int | None = None,
    rates: Rates | None = None,
) -> Report:
    """Time one step of each preset, with random weights.

    Args:
        presets: names of `PRESETS` that take the same latents; ratios are to the first.
        sizes: frames, rows and columns of the latents, by the name of the size.
        guidance: a batch of two, as classifier-free guidance runs; else of one.
        backward: also time a training step of the network: forward, squared error, gradients of
            all weights; without an optimizer.
        sets: keep only so many sets of blocks, see `cut`.
        rates: of the machine in `dtype`; measured when None.
    """
    rates = rates or machine.measure_rates(device, dtype)
    models = {name: make_denoiser(name, dtype, device, sets) for name in presets}
    rows: list[Row] = []
    left_out: list[Row] = []
    for name in (FORWARD, TRAINING) if backward else (FORWARD,):
        for size, latents in sizes.items():
            if protocol.expired:
                why = "the time was used up"
                left_out.append({"model": "all", "pass": name, "size": size, "why": why})
                continue
            race = _Race(models, latents, 2 if guidance else 1, name, device, protocol)
            found, failures = race.run(rates.matmul, dtype)
            rows += [{"size": size, **row, "label": f"{row['model']} {name}"} for row in found]
            left_out += [
                {"model": model, "pass": name, "size": size, "why": why}
                for model, why in failures.items()
            ]
    rows.sort(key=lambda row: list(sizes).index(row["size"]))
    return Report(
        bench="denoiser",
        machine=machine.describe(device, {dtype: rates}),
        settings={
            "models": list(presets),
            "sets": sets,
            "guidance": guidance,
            "text_tokens": TEXT_TOKENS,
            "dtype": machine.name_of(dtype),
            "rounds": protocol.rounds,
        },
        rows=rows,
        left_out=left_out,
    )


class _Race:
    """One pass of all models at one size."""

    def __init__(
        self,
        models: Mapping[str, HTHTransformer],
        latents: Latents,
        batch: int,
        name: str,
        device: torch.device,
        protocol: Protocol,
    ) -> None:
        self.models, self.latents, self.batch, self.name = models, latents, batch, name
        self.device, self.protocol = device, protocol
        self.runs: dict[str, Run] = {}
        for preset, model in models.items():
            inputs = draw(model, latents, batch)
            if name == FORWARD:
                self.runs[preset] = partial(forward, model, with_text_read(model, inputs))
            else:
                self.runs[preset] = partial(training_step, model, inputs)

    def run(self, matmul: float, dtype: torch.dtype) -> tuple[list[Row], dict[str, str]]:
        """The rows of those that ran, and why the others did not."""
        too_large = {
            preset: f"needs about {needed / 2**30:.3g} GiB"
            for preset, needed in self._memory(dtype).items()
            if self.protocol.memory is not None and needed / 2 > self.protocol.memory
        }
        runs = {preset: run for preset, run in self.runs.items() if preset not in too_large}
        timings, failures = interleave(runs, self.protocol, synchronizer(self.device))
        self._forget_gradients()  # else the next peak would count them
        first = timings.get(next(iter(self.models)))
        rows = []
        for preset, timing in timings.items():
            ratio = timing.median / first.median if first else None
            rows.append(self._row(preset, timing, matmul) | {"ratio": ratio})
            self._forget_gradients()
        spent = ", ".join(f"{row['model']} {row['seconds']:.3g}" for row in rows)
        self.protocol.note(f"{self.name} of {self.latents}: {spent} s")
        return rows, too_large | failures

    def _row(self, preset: str, timing: Timing, matmul: float) -> Row:
        model, run = self.models[preset], self.runs[preset]
        parts = step_flops(model.config, self.latents, training=self.name == TRAINING)
        flops = self.batch * FORWARDS[self.name] * sum(parts.values())
        return {
            "pass": self.name,
            "model": preset,
            "parameters": sum(p.numel() for p in model.parameters()),
            "blocks": len(model.config.plan),
            "batch": self.batch,
            "tokens": math.prod(token_grid(model.config, self.latents)),
            "seconds": timing.median,
            "rounds": list(timing.seconds),
            "spread": timing.spread,
            "flops": flops,
            "of_matmul_rate": flops / matmul / timing.median,
            "weight_bytes": weight_bytes(model),
            "peak_bytes": peak_bytes(run, self.device),
            "parts": self._parts(preset) if self.name == FORWARD else {},
            "flop_parts": parts,
        }

    def _forget_gradients(self) -> None:
        for model in self.models.values():
            model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _memory(self, dtype: torch.dtype) -> dict[str, int]:
        """Bytes of a step, within about a factor of two; training keeps those of all blocks."""
        needed = {}
        for preset, model in self.models.items():
            block = self.batch * activation_bytes(model.config, self.latents, dtype.itemsize)
            training = block * len(model.config.plan) + weight_bytes(model)
            needed[preset] = block if self.name == FORWARD else training
        return needed

    def _parts(self, preset: str) -> dict[str, float]:
        rounds, clock = min(3, self.protocol.rounds), self.protocol.clock
        run = self.runs[preset]
        return part_seconds(self.models[preset], run, self.device, rounds=rounds, clock=clock)


def make_denoiser(
    preset: str, dtype: torch.dtype, device: torch.device, sets: int | None = None
) -> HTHTransformer:
    """A preset with random weights in `dtype`, float32 where it keeps that, for timing only.

    Weights that start at zero are made random, since some chips run faster on zeros.
    """
    with default_dtype(dtype), device:
        model = build(preset, plan=cut(PRESETS[preset]["plan"], sets))
    for name, parameter in model.named_parameters():
        if any(kept in name.split(".") for kept in model._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def on_meta(preset: str, sets: int | None = None) -> HTHTransformer:
    """A preset without memory or weights, for its config and its number of parameters.

    Raises:
        ValueError: the preset is unknown or has fewer sets.
    """
    with torch.device("meta"):
        shell = build(preset)
        return shell if sets is None else build(preset, plan=cut(shell.config["plan"], sets))


def cut(plan: list[Any], sets: int | None) -> list[Any]:
    """The first `sets` sets of a plan, each as long as the published one of 11 blocks.

    Raises:
        ValueError: the plan has fewer.
    """
    if sets is None:
        return plan
    blocks = sets * len(hybrid_plan(1))
    if not 0 < blocks <= len(plan):
        valid = len(plan) // len(hybrid_plan(1))
        raise ValueError(f"{sets} sets of a plan that has {valid}: valid is 1 to {valid}")
    return plan[:blocks]


def draw(model: HTHTransformer, latents: Latents, batch: int) -> dict[str, Any]:
    """Random latents (float32, as the pipeline keeps them), times and text states."""
    device = model.device
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(batch, *sizes, device=device, generator=generator)

    return {
        "hidden_states": normal(model.config.in_channels, *latents),
        "timestep": torch.full((batch,), 500.0, device=device),
        "encoder_hidden_states": normal(TEXT_TOKENS, model.config.text_dim),
        "encoder_attention_mask": torch.ones(batch, TEXT_TOKENS, dtype=torch.bool, device=device),
    }


@torch.no_grad()
def with_text_read(model: HTHTransformer, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of all steps but a generation's first, whose text has been read already."""
    return {**inputs, "encoder_hidden_states": model.read_text(inputs["encoder_hidden_states"])}


def step_flops(config: Mapping[str, Any], latents: Latents, *, training: bool) -> dict[str, int]:
    """`forward_flops` of what is timed: outside of training, text is read before the steps."""
    parts = forward_flops(config, latents, TEXT_TOKENS)
    if not training:
        reading = 2 * TEXT_TOKENS * config["text_dim"] * 2 * config["dim"]
        parts[CROSS] -= len(config["plan"]) * reading
    return parts


def forward(model: HTHTransformer, inputs: Mapping[str, Any]) -> Tensor:
    """One step's prediction, without gradients."""
    with torch.no_grad():
        return model(**inputs).sample


def training_step(model: HTHTransformer, inputs: Mapping[str, Any]) -> None:
    """Forward, a squared error, and the gradients of all weights."""
    model.zero_grad(set_to_none=True)
    model(**inputs).sample.square().mean().backward()


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New floating-point tensors have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def image_of_tokens(tokens: int, patch_size: Sequence[int]) -> Latents:
    """Latents of an image that makes so many tokens, its sides as equal as the number allows."""
    rows = next(n for n in range(math.isqrt(tokens), 0, -1) if tokens % n == 0)
    return 1, rows * patch_size[1], tokens // rows * patch_size[2]
