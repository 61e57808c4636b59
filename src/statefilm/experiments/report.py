"""A study's page: how it was made, tables, a plot, samples, and one sentence of what was found."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.report import Row, markdown
from statefilm.experiments.comparison import (
    Difference,
    compare,
    compare_losses,
    mean_loss,
    pooled,
)
from statefilm.experiments.runner import LEVELS, Outcome, arm_folder
from statefilm.experiments.study import Study

Arms = dict[str, list[Outcome]]


def write_report(study: Study, outcomes: Sequence[Outcome], runs: Path, folder: Path) -> Path:
    """Write `<study>.md` with its plot and samples; the page's path.

    Args:
        outcomes: from `run_study`, those of the baseline among them.
        runs: the study's folder, where the arms' samples are.
        folder: for the page; pictures go into a folder of the study's name beside it.
    """
    arms: Arms = {}
    for one in outcomes:
        arms.setdefault(one.arm, []).append(one)
    pictures = folder / study.name
    pictures.mkdir(parents=True, exist_ok=True)
    sections = [
        f"# Study: {study.name}",
        study.question,
        f"**{finding(study, arms)}**",
        _how(study, arms),
        _cost_table(study, arms),
        _figure_table(study, arms),
    ]
    if _plot(study, arms, pictures / "plot.png"):
        sections.append(f"![{study.headline} of each arm]({study.name}/plot.png)")
    sections.append(_samples(study, arms, runs, pictures))
    page = folder / f"{study.name}.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    return page


def finding(study: Study, arms: Arms) -> str:
    """What the study found, in plain words; a difference is claimed only where it was `found`."""
    base = arms[study.baseline]
    parts = []
    others = {arm: own for arm, own in arms.items() if arm != study.baseline}
    for name, differences in (
        (
            f"in {study.headline}",
            {a: compare(own, base, study.headline) for a, own in others.items()},
        ),
        ("in the loss", {a: compare_losses(own, base) for a, own in others.items()}),
    ):
        found = {arm: difference for arm, difference in differences.items() if difference.found}
        claims = [f"{arm} {_signed(difference)}" for arm, difference in found.items()]
        parts.append(f"{name} {', '.join(claims)}" if claims else f"{name} no difference was found")
    seeds = len(base)
    return (
        f"Against {study.baseline}, at this budget and with {seeds} seed{'s' * (seeds != 1)}: "
        f"{'; '.join(parts)}."
    )


def _how(study: Study, arms: Arms) -> str:
    seeds = sorted({one.seed for own in arms.values() for one in own})
    before = study.before
    stage = "" if before is None else f" after {before.steps} steps of `{before.recipe}`"
    alike = {
        "steps": "All arms took the same steps on the same samples.",
        "flops": "All arms spent the same operations in the denoiser's forward passes.",
    }[study.equal]
    return (
        f"`statefilm experiment {study.name}` with seeds {', '.join(map(str, seeds))}: "
        f"`{study.recipe}`, {study.steps} steps of the baseline{stage}. {alike} A difference is "
        "claimed where its 95 % interval leaves zero out and all of at least two seeds agree in "
        f"its sign. The page was made with "
        f"{machine.line(machine.describe(torch.device('cpu')))}."
    )


def _cost_table(study: Study, arms: Arms) -> str:
    base = arms[study.baseline]
    rows: list[Row] = []
    for arm, own in arms.items():
        rows.append(
            {
                "arm": arm,
                "parameters": f"{own[0].parameters:,}",
                "steps": f"{own[0].steps:,}",
                "TFLOPs forward": f"{own[0].flops / 1e12:,.0f}",
                "minutes a seed": ", ".join(f"{one.seconds / 60:.1f}" for one in own),
                "loss": f"{mean_loss(own):.4f}",
                "difference": _against(arm, study, compare_losses(own, base), 4),
            }
        )
    levels = ", ".join(f"{level:g}" for level in LEVELS)
    note = f"The loss is the squared error at noise levels {levels} on the same held-back samples."
    return f"## Training\n\n{_table(rows)}\n\n{note}"


def _figure_table(study: Study, arms: Arms) -> str:
    base = arms[study.baseline]
    names = dict.fromkeys((study.headline, *filter(_is_shown, base[0].metrics)))
    rows: list[Row] = []
    for name in names:
        row: Row = {"figure": name, "floor": f"{pooled(base, name).floor:.3f}"}
        for arm, own in arms.items():
            difference = _against(arm, study, compare(own, base, name), 3)
            row[arm] = f"{pooled(own, name).value:.3f} ({difference})".replace(" (-)", "")
        rows.append(row)
    note = "In brackets the difference to the baseline with its 95 % interval; * where it is found."
    return f"## Figures\n\n{_table(rows)}\n\n{note}"


def _samples(study: Study, arms: Arms, runs: Path, pictures: Path) -> str:
    lines = ["## Samples", "The same prompts and seeds in every arm.", ""]
    for index, (arm, own) in enumerate(arms.items()):
        source = arm_folder(runs, arm, own[0].seed) / "samples.png"
        if source.is_file():
            shutil.copyfile(source, pictures / f"samples-{index}.png")
            lines.append(f"- {arm}: ![samples of {arm}]({study.name}/samples-{index}.png)")
    return "\n".join(lines)


def _plot(study: Study, arms: Arms, path: Path) -> bool:
    """The headline of each arm with its interval, and each seed as a dot; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    figure = Figure(figsize=(6.4, 1.2 + 0.45 * len(arms)), layout="constrained")
    axis = figure.subplots()
    for place, own in enumerate(arms.values()):
        value = pooled(own, study.headline)
        axis.plot([value.low, value.high], [place, place], color="C0", linewidth=3, alpha=0.5)
        axis.plot([value.value], [place], "|", color="C0", markersize=14)
        seeds = [one.metrics[study.headline].value for one in own]
        axis.plot(seeds, [place] * len(seeds), "o", color="C1", markersize=4)
    axis.set_yticks(range(len(arms)), list(arms))
    axis.invert_yaxis()
    axis.set_xlabel(f"{study.headline} (bar: 95 % interval, dots: seeds)")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    return True


def _is_shown(metric: str) -> bool:
    """Whether a figure has a row: those of kinds of prompts and of GenEval's rules have none."""
    return not {"seen", "heldout", "parity"} & set(metric.split("@")[0].split("."))


def _against(arm: str, study: Study, difference: Difference, digits: int) -> str:
    return "-" if arm == study.baseline else _signed(difference, digits)


def _signed(difference: Difference, digits: int = 3) -> str:
    value, low, high = (
        f"{number:+.{digits}f}" for number in (difference.value, difference.low, difference.high)
    )
    return f"{value}, {low} to {high}{'*' if difference.found else ''}"


def _table(rows: Sequence[Row]) -> str:
    columns = [(key, lambda row, key=key: row[key]) for key in rows[0]]
    return "\n".join(markdown(columns, rows))
