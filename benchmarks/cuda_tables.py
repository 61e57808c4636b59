"""All that one NVIDIA GPU has to tell: python benchmarks/cuda_tables.py FOLDER [--minutes 9].

Checks the kernels against the float64 reference, times the ops at two widths and one step of the
5B denoisers, and writes a JSON file for each part and `tables.md`, renewed after each part. A part
that fails is reported, and the next one runs. `--tiny --device cpu` shows on any machine that all
parts work. The first parts need torch alone, the denoisers also diffusers and typer.
"""

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from statefilm.evaluation.speed import agreement, machine
from statefilm.evaluation.speed.contestants import contestants, draw
from statefilm.evaluation.speed.floors import OpShape
from statefilm.evaluation.speed.ops import measure_ops
from statefilm.evaluation.speed.report import Row, markdown
from statefilm.evaluation.speed.timing import Protocol, reason

LENGTHS = [1024, 2048, 4096, 8192, 16384, 29000, 32768, 65536]
# Largest errors over the truth's largest entry: of the output, and of the gradients.
BOUNDS = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (2e-2, 2e-2)}
SHAPE_FIELDS = ("batch", "length", "dim", "head_dim", "state_dim", "groups")
SIZES = (16, 32, 64, 128)  # of heads and states


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
        protocol=plan.protocol(1.0),
        guidance=True,
    )
    return Outcome(report.as_dict(), report.table())


PARTS: dict[str, Callable[[Plan], Outcome]] = {
    "check": check,
    "ops-1024": ops(1024, 0.45),
    "ops-2816": ops(2816, 0.7),
    "denoiser": denoiser,
}


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
