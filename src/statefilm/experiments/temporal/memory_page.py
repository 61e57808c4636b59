"""The page of `temporal-memory`: JSON, tables, plots, and sentences of what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.memory import COUNTED
from statefilm.evaluation.speed.report import Row, markdown, milliseconds, size
from statefilm.experiments.temporal.arms import ATTENTION
from statefilm.experiments.temporal.memory import (
    CROSSING_LIMIT,
    NAME,
    PARAMETERS,
    QUESTION,
    REFERENCE,
    MemoryResults,
)
from statefilm.experiments.temporal.memory_found import found

FORMS = (
    "At equal width `attention` is the published layer: one head of 64 for each 8 channels of the "
    "U-Net's base width (8 in the one layer, which stands for base width 64), rotary positions and "
    "a learnt bias on distances, in the form that training runs. Up to 128 keys a CPU runs it "
    "written out; beyond, torch's `scaled_dot_product_attention`, which for a bias that learns "
    "keeps the matrix of all pairs as well. `attention-no-bias` leaves the bias out, so that the "
    "fused kernel, which keeps no matrix, takes over from 129 keys on (on GPUs at any length). "
    "`self-attention` and `gated-linear-attention` are the image blocks' layers, as wide inside "
    "as outside. The others are as published: `linear-attention` with the heads of attention, S4D "
    "with 512 states, S6 with 16, Hydra and BiMamba-2 with 64."
)


def write_memory_page(results: MemoryResults, folder: Path) -> Path:
    """Write `temporal-memory.md`, with `results.json` and plots in a folder of that name."""
    files = folder / NAME
    files.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.as_dict(), indent=1)
    (files / "results.json").write_text(text + "\n", "utf-8")
    sections = [f"# Study: {NAME}", QUESTION, _how(results), FORMS]
    for number, (subject, rows) in enumerate(_by(results.rows, "subject")):
        sections.append(f"## {subject[0].upper()}{subject[1:]}")
        if _plot(rows, files / f"plot-{number}.png"):
            sections.append(f"![memory and time by frames]({NAME}/plot-{number}.png)")
        for comparison, own in _by(rows, "comparison"):
            layers = [
                layer
                for layer in results.layers
                if (layer["subject"], layer["comparison"]) == (subject, comparison)
            ]
            sections += [f"### At {comparison}", *_tables(layers, own)]
    sections += _left_out(results.left_out)
    sections.append("## Found\n\n" + "\n".join(f"- {sentence}" for sentence in found(results)))
    page = folder / f"{NAME}.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    return page


def _how(results: MemoryResults) -> str:
    device = results.machine["device"].split(":")[0]
    return (
        f"`statefilm experiment {NAME} --rounds {results.settings['rounds']}`, measured with "
        f"{machine.line(results.machine)}. "
        "*Kept* is what one training forward of one clip keeps for its backward: exact bytes, each "
        "storage once, weights left out. Times are medians of "
        f"{results.settings['rounds']} rounds in which the layers take turns; a step is forward "
        f"and backward without an optimizer. Peaks: {COUNTED.get(device, 'not known')}. At "
        f"{PARAMETERS} each mixer has the options nearest to its published ones that bring its "
        f"temporal layers within 5 % of the parameters of `{REFERENCE}`."
    )


def _tables(layers: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """What is kept, times and peaks of one comparison."""
    cells: dict[str, dict[int, Row]] = {}
    for row in rows:
        cells.setdefault(row["arm"], {})[row["frames"]] = row
    frames = sorted({row["frames"] for row in rows})
    kept = [
        {
            "layer": layer["arm"],
            "options": _options(layer),
            "parameters": f"{layer['parameters']:,}",
            **{f"{n}": size(cells[layer["arm"]][n]["saved_bytes"]) for n in frames},
            "off linear": f"{100 * layer['growth']:.1f} %",
            "attention keeps more from": _passes(layer),
        }
        for layer in layers
    ]
    tables = ["Kept for the backward, MiB by frames:", _table(kept)]
    for title, column, form in (
        ("Forward without gradients, ms by frames:", "forward_seconds", milliseconds),
        ("Training step, ms by frames:", "step_seconds", milliseconds),
        ("Peak of a forward without gradients, MiB by frames:", "inference_peak_bytes", size),
        ("Peak of a training step, MiB by frames:", "training_peak_bytes", size),
    ):
        shown = [n for n in frames if any(own[n][column] is not None for own in cells.values())]
        if not shown:
            continue
        lines: list[Row] = []
        for arm, own in cells.items():
            line: Row = {"layer": arm}
            for n in shown:
                line[f"{n}"] = form(own[n][column])
                line[f"attention's {n}"] = _times(cells[ATTENTION][n][column], own[n][column])
            lines.append(line)
        tables += [title, _table(lines)]
    return tables


def _options(layer: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in layer["options"].items()) or "-"


def _passes(layer: Row) -> str:
    if layer["arm"] == ATTENTION:
        return "-"
    frames = layer["attention_passes_at"]
    return f"over {CROSSING_LIMIT}" if frames is None else f"{frames}"


def _times(attention: float | None, own: float | None) -> str:
    """How many times an arm's figure attention's is."""
    return "-" if not attention or not own else f"x {attention / own:.2f}"


def _left_out(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        at = f" at {row['frames']} frames" if "frames" in row else ""
        lines.append(f"- {row['subject']}, {row['comparison']}: {row['arm']}{at}: {row['why']}")
    return ["## Not measured", "\n".join(lines)] if lines else []


def _plot(rows: Sequence[Row], path: Path) -> bool:
    """Bytes kept and seconds a step by frames, a pair of panels a comparison; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    comparisons = _by(rows, "comparison")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure = Figure(figsize=(11, 4.2 * len(comparisons)), layout="constrained")
    axes = figure.subplots(len(comparisons), 2, squeeze=False)
    for (kept, step), (comparison, own) in zip(axes, comparisons, strict=True):
        for place, arm in enumerate(arms):
            points = [row for row in own if row["arm"] == arm]
            if not points:
                continue
            style = {"color": f"C{place % 10}", "marker": "o", "linestyle": "-:"[place // 10]}
            for axis, column, unit in ((kept, "saved_bytes", 2**-20), (step, "step_seconds", 1e3)):
                seen = [row for row in points if row[column] is not None]
                values = [unit * row[column] for row in seen]
                axis.plot([row["frames"] for row in seen], values, label=arm, **style)
        for axis, label in ((kept, "MiB kept for the backward"), (step, "ms a training step")):
            axis.set(xscale="log", yscale="log", xlabel="frames", ylabel=label, title=comparison)
            axis.grid(alpha=0.3)
        step.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=100)
    return True


def _by(rows: Sequence[Row], key: str) -> list[tuple[str, list[Row]]]:
    return [(name, list(own)) for name, own in groupby(rows, key=lambda row: row[key])]


def _table(rows: Sequence[Row]) -> str:
    columns = [(key, lambda row, key=key: row[key]) for key in rows[0]]
    return "\n".join(markdown(columns, rows))
