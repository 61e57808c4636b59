"""All that one NVIDIA GPU has to tell: python benchmarks/cuda_tables.py FOLDER [--minutes 9].

Checks the kernels against the float64 reference, times the ops at two widths, one step of the 5B
denoisers and whole training steps, and writes a JSON file for each part and `tables.md`, renewed
after each part. A part that fails is reported, and the next one runs. `--tiny --device cpu` shows
on any machine that all parts work. The first parts need torch alone, the denoisers also diffusers
and typer, the training steps all that the package needs.
"""

import argparse
import gc
import json
import math
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from statefilm.evaluation.speed import agreement, machine
from statefilm.evaluation.speed.contestants import contestants, draw
from statefilm.evaluation.speed.floors import OpShape
from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.evaluation.speed.ops import measure_ops
from statefilm.evaluation.speed.report import Row, markdown, milliseconds, percent, size
from statefilm.evaluation.speed.timing import Protocol, Timing, reason, seconds_of, synchronizer

LENGTHS = [1024, 2048, 4096, 8192, 16384, 29000, 32768, 65536]
# Largest errors over the truth's largest entry: of the output, and of the gradients.
BOUNDS = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (2e-2, 2e-2)}
SHAPE_FIELDS = ("batch", "length", "dim", "head_dim", "state_dim", "groups")
SIZES = (16, 32, 64, 128)  # of heads and states
RECIPES = ("hth_300m/1_256p_t2i", "hth_300m/3_180p_t2v")
# What makes a step of theirs small.
TINY_MODEL = ["model.init_from=null", "model.preset=hth_tiny", "vae=null", "text.max_length=8"]
TINY_MODEL += ["accumulate=2", "compile=none"]
TINY_FILES = {"area": "1024", "step": "8"}


@dataclass(frozen=True)
class Outcome:
    """What a part gives: data for its file, text for the tables, and whether all was well."""

    data: dict[str, Any]
    text: str
    ok: bool = True


@dataclass(frozen=True)
class Plan:
    """How the parts run; `deadline` says when a part that is a share of the whole must end."""

    device: torch.device
    tiny: bool
    start: float
    minutes: float

    def protocol(self, share: float) -> Protocol:
        """Rounds that stop beginning anything when that share of the time is over."""
        return Protocol(
            rounds=2 if self.tiny else 5,
            budget=2.0,
            deadline=self.start + share * 60 * self.minutes,
            note=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        )


def check(plan: Plan) -> Outcome:
    """Errors of each backend at random odd lengths, output and all gradients."""
    rows = []
    for index, shape in enumerate(random_shapes(1 if plan.tiny else 5, plan.tiny)):
        for dtype, bounds in BOUNDS.items():
            inputs = draw("quasiseparable", shape, dtype, plan.device, seed=index)
            for contestant in contestants(plan.device):
                if not contestant.name.startswith("quasiseparable"):
                    continue
                row: Row = {"shape": asdict(shape), "dtype": machine.name_of(dtype)}
                row["backend"] = contestant.name.removeprefix("quasiseparable").strip() or "auto"
                try:
                    row["errors"] = agreement.errors(contestant.run, inputs)
                    row["ok"] = within(row["errors"], *bounds)
                except Exception as error:
                    row |= {"errors": {}, "ok": None, "why": reason(error)}
                rows.append(row)
    ok = all(row["ok"] is not False for row in rows)
    data = {"machine": machine.describe(plan.device), "rows": rows}
    return Outcome(data, "\n".join(markdown(CHECK_COLUMNS, rows)), ok)


def ops(width: int, share: float) -> Callable[[Plan], Outcome]:
    """The ops at one width, up to a share of the time."""

    def part(plan: Plan) -> Outcome:
        shape = OpShape(1, dim=width)
        lengths = LENGTHS
        if plan.tiny:
            shape, lengths = OpShape(1, dim=32, head_dim=16, state_dim=16), [33, 64, 128]
        report = measure_ops(
            shape,
            lengths,
            dtype=torch.bfloat16,
            device=plan.device,
            protocol=plan.protocol(share),
        )
        return Outcome(report.as_dict(), report.table())

    return part


def denoiser(plan: Plan) -> Outcome:
    """One step with guidance of the hybrid and the transformer, and where it spends its time."""
    from statefilm.cli.bench import latents_of
    from statefilm.evaluation.speed.denoiser import measure_denoisers, on_meta

    names = ("hth_tiny", "dit_tiny") if plan.tiny else ("hth_5b", "dit_5b")
    shells = {name: on_meta(name) for name in names}
    report = measure_denoisers(
        names,
        latents_of(shells, "2K,360p", "16" if plan.tiny else None),
        dtype=torch.bfloat16,
        device=plan.device,
        protocol=plan.protocol(0.8),
        guidance=True,
    )
    return Outcome(report.as_dict(), report.table())


def training(plan: Plan) -> Outcome:
    """Steps of two recipes as `Trainer` makes them, beside what `statefilm plan` foretells.

    Latents and text states are random numbers on the device, as if they were encoded ahead.
    """
    rates = machine.measure_rates(plan.device, torch.bfloat16)
    rows: list[Row] = []
    left_out: list[Row] = []
    ok = True
    for name in RECIPES:
        for number in range(len(recipe_of(name, plan.tiny).data)):
            load = f"{name} data.{number}"
            if plan.protocol(1.0).expired:
                left_out.append({"load": load, "why": "the time was used up"})
                continue
            try:
                rows.append({"load": load, **step_row(name, number, rates.matmul, plan)})
            except Exception as error:
                left_out.append({"load": load, "why": reason(error)})
                ok = False
    data = {
        "machine": machine.describe(plan.device, {torch.bfloat16: rates}),
        "rows": rows,
        "left_out": left_out,
    }
    text = [f"Measured with {machine.line(data['machine'])}.", ""]
    text += [*markdown(TRAINING_COLUMNS, rows), ""]
    text += [f"- left out: {row['load']}: {row['why']}" for row in left_out]
    return Outcome(data, "\n".join(text).rstrip(), ok)


PARTS: dict[str, Callable[[Plan], Outcome]] = {
    "check": check,
    "ops-1024": ops(1024, 0.45),
    "ops-2816": ops(2816, 0.7),
    "denoiser": denoiser,
    "training": training,
}


def recipe_of(name: str, tiny: bool, folder: str = "") -> Any:
    """A recipe whose data are not there, in a folder; at toy size on pixels where it is tiny."""
    from statefilm.training import load_recipe

    changes = TINY_MODEL if tiny else []
    for number, stream in enumerate(load_recipe(name).data):
        own = {"path": str(Path(folder) / "no-data")}
        own |= TINY_FILES if tiny else {}
        own |= {"lengths": "[5]"} if tiny and max(stream.files.lengths) > 1 else {}
        changes = [*changes, *(f"data.{number}.files.{key}={own[key]}" for key in own)]
        changes += [f"data.{number}.batch_size=4"] if tiny else []
    return load_recipe(name, changes)


def open_trainer(recipe: Any, folder: str, device: torch.device) -> Any:
    """The trainer of a recipe, ready for a step, without data and frozen encoders.

    A VAE and a text encoder of next to no size say how large latents and text states are.
    """
    from statefilm.models import build
    from statefilm.models.vae import build_vae
    from statefilm.training import Trainer
    from statefilm.training.logs import Logs
    from statefilm.training.planning.sources import planned_sources, without_weights
    from statefilm.training.recipe import TextSource
    from statefilm.training.tasks import build_task

    recipe = without_weights(recipe)
    with torch.device("meta"):
        width = build(recipe.model.preset, **recipe.model.overrides).config.text_dim
    small = {"d_model": width, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    text = TextSource(preset="world_t5", overrides=small, max_length=recipe.text.max_length)
    recipe = recipe.model_copy(update={"text": text})
    vae = None
    if recipe.vae is not None:
        vae = build_vae(recipe.vae, block_out_channels=(32,) * 4, layers_per_block=1)
    trainer = Trainer(recipe, folder, device=device, quiet=True)
    sources = planned_sources(recipe)
    trainer._open_task = lambda _: build_task(
        recipe, trainer.device, trainer.ranks, sources=sources, vae=vae
    )
    trainer._build()
    trainer.logs = Logs(None, 0, recipe.steps, quiet=True)
    return trainer


def step_row(name: str, number: int, matmul: float, plan: Plan) -> Row:
    """What steps of one stream take: seconds, operations and memory.

    Args:
        name: of the recipe.
        matmul: the rate of matrix products, operations a second.
    """
    from statefilm.models.flops import forward_flops

    device = plan.device
    gc.collect()  # what was measured before
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with tempfile.TemporaryDirectory() as folder:
        trainer = open_trainer(recipe_of(name, plan.tiny, folder), folder, device)
    recipe, task = trainer.recipe, trainer.task
    pixels = max(task.batches.sources[number].sizes, key=math.prod)  # as plans choose
    batch = random_batch(trainer, number, task.batches.draw.shapes[pixels])
    step, synchronize = partial(trainer._step, batch), synchronizer(device)
    for _ in range(1 if plan.tiny else 3):
        step()  # compiles, and makes the state of the optimizer
    rounds = 2 if plan.tiny else 10
    spent = [seconds_of(step, 1, time.perf_counter, synchronize) for _ in range(rounds)]
    timing = Timing(tuple(spent))
    peak = peak_of(trainer, step, batch) - held
    if trainer.counters.skipped:
        raise FloatingPointError(f"{trainer.counters.skipped} steps were not finite")
    count, latents = len(batch.names), tuple(batch.noise.shape[2:])
    tokens = count * task.pipeline.num_tokens(*pixels)
    one = sum(forward_flops(task.transformer.config, latents, recipe.text.max_length).values())
    rate = 3 * count * one / timing.median  # a backward is two forwards
    passes = 4 if recipe.gradient_checkpointing else 3
    foretold = planned_bytes(trainer, number, pixels, latents)
    print(f"  {name} data.{number}: {timing.median:.3g} s", file=sys.stderr, flush=True)
    return {
        "model": recipe.model.preset,
        "size": pixels,
        "tokens": tokens,
        "accumulate": recipe.accumulate,
        "micro_batch": count // recipe.accumulate,
        "compile": recipe.compile,
        "precision": recipe.precision,
        "seconds": timing.median,
        "spread": timing.spread,
        "tokens_per_second": tokens / timing.median,
        "mfu": rate / matmul,
        "mfu_with_recomputation": rate * passes / 3 / matmul,
        "peak_bytes": peak,
        "planned_bytes": foretold,
        "ratio": peak / foretold,
    }


def random_batch(trainer: Any, number: int, shape: tuple[int, ...]) -> Any:
    """A step's batch of one stream, made on the device; `shape` is that of one sample's latents."""
    from statefilm.training.batches import Batch

    recipe, device = trainer.recipe, trainer.device
    count, length = recipe.data[number].batch_size, recipe.text.max_length
    draw = {"device": device, "generator": torch.Generator(device).manual_seed(number)}
    width = trainer.task.transformer.config.text_dim
    return Batch(
        step=0,
        stream=number,
        names=[f"sample {index}" for index in range(count)],
        captions=[""] * count,
        labels=torch.full((count,), -1, device=device),
        frames=torch.randn(count, *shape, **draw),
        noise=torch.randn(count, *shape, **draw),
        level=torch.rand(count, **draw),
        encoded=True,
        states=torch.randn(count, length, width, **draw),
        mask=torch.ones(count, length, dtype=torch.bool, device=device),
    )


def peak_of(trainer: Any, step: Callable[[], object], batch: Any) -> int:
    """Bytes at the peak of a step, with weights, averages and optimizer, without the batch."""
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
        step()
        inputs = (getattr(batch, one.name) for one in fields(batch))
        given = sum(x.nbytes for x in inputs if isinstance(x, torch.Tensor))
        return torch.cuda.max_memory_allocated(trainer.device) - given
    kept = [*trainer.task.modules.parameters(), *trainer.average.tensors().values()]
    kept += trainer.optimizers.tensors().values()
    return sum(tensor.nbytes for tensor in kept) + peak_bytes(step, trainer.device)


def planned_bytes(
    trainer: Any, number: int, pixels: tuple[int, ...], latents: tuple[int, ...]
) -> int:
    """What `statefilm plan` foretells of the same step."""
    from statefilm.training.planning import Hardware, Layout, Planner, Settings
    from statefilm.training.planning.shells import preset_shell

    recipe = trainer.recipe
    shell = preset_shell(
        recipe.model.preset,
        pixels,
        latents,
        batch_size=recipe.data[number].batch_size,
        text_tokens=recipe.text.max_length,
        precision=recipe.precision,
    )
    scans = trainer.task.transformer.config.plan
    shell.modules["transformer"].register_to_config(plan=scans)
    settings = Settings(Layout(1, 1, 1), recipe.accumulate, recipe.gradient_checkpointing)
    hardware = Hardware(1, memory=0, rate=1.0, cuda=trainer.device.type == "cuda")
    return Planner(shell, recipe.optimizer, hardware, settings).memory(0, settings).total


def random_shapes(count: int, tiny: bool) -> list[OpShape]:
    """Shapes whose lengths are odd, the same ones in every run."""
    numbers = random.Random(0)
    shapes = []
    for _ in range(count):
        groups, head_dim = numbers.choice((1, 2)), numbers.choice(SIZES[: 1 if tiny else None])
        heads = groups * numbers.choice((1, 2, 3))
        length = numbers.randrange(33, 66, 2) if tiny else numbers.randrange(65, 400, 2)
        state = numbers.choice(SIZES[: 1 if tiny else None])
        batch = numbers.choice((1, 2))
        shapes.append(OpShape(length, batch, heads * head_dim, head_dim, state, groups))
    return shapes


def within(errors: dict[str, float], output: float, gradients: float) -> bool:
    """Whether all errors are below their bounds; NaN is not."""
    bounds = {name: output if name == "y" else gradients for name in errors}
    return all(error <= bounds[name] for name, error in errors.items())


def error_of(name: str) -> tuple[str, Callable[[Row], str]]:
    """The column of one output or gradient."""
    heading = name if name == "y" else f"d{name}"
    return heading, lambda row: f"{row['errors'][name]:.1e}" if row["errors"] else "-"


CHECK_COLUMNS = [
    ("B L d P N G", lambda row: " ".join(str(row["shape"][n]) for n in SHAPE_FIELDS)),
    ("dtype", lambda row: row["dtype"]),
    ("backend", lambda row: row["backend"]),
    *map(error_of, ("y", "x", "dt", "A", "B", "C", "D")),
    ("", lambda row: {True: "ok", False: "WRONG"}.get(row["ok"]) or row["why"]),
]


TRAINING_COLUMNS = [
    ("recipe and stream", lambda row: row["load"]),
    ("model", lambda row: row["model"]),
    ("frames, rows, columns", lambda row: " x ".join(map(str, row["size"]))),
    ("batch", lambda row: f"{row['accumulate']} x {row['micro_batch']}"),
    ("ms a step", lambda row: milliseconds(row["seconds"])),
    ("spread", lambda row: percent(row["spread"])),
    ("tokens/s", lambda row: f"{row['tokens_per_second']:.0f}"),
    ("MFU", lambda row: percent(row["mfu"])),
    ("with recomputation", lambda row: percent(row["mfu_with_recomputation"])),
    ("peak MiB", lambda row: size(row["peak_bytes"])),
    ("planned MiB", lambda row: size(row["planned_bytes"])),
    ("peak / planned", lambda row: f"{row['ratio']:.2f}"),
]


def main(args: list[str] | None = None) -> int:
    """Run all parts; 0 when each gave its table and the kernels are right, else 3."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing after these")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that all parts run")
    asked = parser.parse_args(args)
    asked.folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(torch.device(asked.device), asked.tiny, time.perf_counter(), asked.minutes)

    sections, failed = [], []
    for name in asked.parts.split(","):
        print(f"{name}, second {time.perf_counter() - plan.start:.0f}", file=sys.stderr, flush=True)
        try:
            outcome = PARTS[name](plan)
        except Exception as error:
            traceback.print_exc()
            failed.append(name)
            sections.append(f"## {name}\n\nfailed: {reason(error)}\n")
        else:
            failed += [] if outcome.ok else [name]
            sections.append(f"## {name}\n\n{outcome.text}\n")
            file = asked.folder / f"{name}.json"
            file.write_text(json.dumps(outcome.data, indent=1) + "\n", "utf-8")
        print(sections[-1], flush=True)
        (asked.folder / "tables.md").write_text("\n".join(sections), "utf-8")
    print(f"failed: {', '.join(failed)}" if failed else "all parts ran", file=sys.stderr)
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
