"""A study's page: how it was made, tables, a plot, samples, and at last what was found."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.report import Row, markdown
from statefilm.experiments.comparison import (
    Difference,
    compare,
    compare_losses,
    mean_loss,
    pooled,
)
from statefilm.experiments.judging import at_scale, sample_prompts
from statefilm.experiments.runner import KEPT, LEVELS, Outcome, arm_folder, before_folder
from statefilm.experiments.study import ClipMeasures, Study

Arms = dict[str, list[Outcome]]

WIDTH, HEIGHT = 1040, 150  # pixels that a page has room for in pictures of samples


def write_report(study: Study, outcomes: Sequence[Outcome], runs: Path, folder: Path) -> Path:
    """Write `<study>.md` with its plot and samples; the page's path.

    Args:
        outcomes: from `run_study`, those of the baseline among them.
        runs: the study's folder, where the arms' samples are.
        folder: for the page; pictures go into a folder of the study's name beside it.
    """
    arms = by_arm(outcomes)
    sections = [
        f"# Study: {study.name}",
        study.question,
        f"`statefilm experiment {study.name}` with {how(study, arms)}",
        *kept_by_vae(runs, [one.seed for one in arms[study.baseline]]),
        *body(study, arms, runs, folder / study.name),
        f"## Found\n\n{finding(study, arms)}",
    ]
    page = folder / f"{study.name}.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    return page


def by_arm(outcomes: Sequence[Outcome]) -> Arms:
    """The outcomes of each arm, in the order in which they come."""
    arms: Arms = {}
    for one in outcomes:
        arms.setdefault(one.arm, []).append(one)
    return arms


def body(
    study: Study,
    arms: Arms,
    runs: Path,
    pictures: Path,
    *,
    level: str = "##",
    real: Mapping[str, float] | None = None,
) -> list[str]:
    """A page's tables, plot and samples.

    Args:
        runs: the study's folder, where the arms' samples are.
        pictures: the folder for pictures, beside the page.
        level: of the headings.
        real: figures of real samples by name, for a column of their own.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    sections = [
        f"{level} Training\n\n{_cost_table(study, arms)}",
        f"{level} Figures\n\n{_figure_table(study, arms, real)}",
    ]
    if _plot(study, arms, pictures / "plot.png"):
        sections.append(f"![{study.headline} of each arm]({pictures.name}/plot.png)")
    sections.append(f"{level} Samples\n\n{_samples(study, arms, runs, pictures)}")
    return sections


def kept_by_vae(runs: Path, seeds: Sequence[int]) -> list[str]:
    """What reconstructions of the first stage's VAE read as; nothing where it trains none.

    Args:
        runs: the study's folder.
    """
    rows: list[Row] = []
    real: dict[str, str] = {"seed": "rendered", "minutes": "-", "PSNR": "-"}
    for seed in seeds:
        file = before_folder(runs, seed) / KEPT
        if not file.is_file():
            continue
        read = json.loads(file.read_text("utf-8"))
        row = {"seed": str(seed), "minutes": f"{read['details']['minutes']:.1f}"}
        for name, metric in read["metrics"].items():
            row[name] = f"{metric['value']:.3f}"
            real[name] = f"{read['oracle'][name]:.3f}"
        row["scenes"] = real["scenes"] = str(read["metrics"]["scene"]["n"])
        row["PSNR"] = f"{read['details']['psnr']['scenes']:.1f} dB"
        rows.append(row)
    if not rows:
        return []
    note = "The part of clean scenes that read right once the VAE has taken them in and given back."
    return [f"## The VAE\n\n{_table([*rows, real])}\n\n{note}"]


def finding(study: Study, arms: Arms) -> str:
    """What the study found, in plain words; a difference is claimed only where it was `found`."""
    base = study.baseline
    seeds = len(arms[base])
    parts = []
    others = [arm for arm in arms if arm != base]
    found: dict[str, list[Difference | None]] = {
        figure: [compare(arms, arm, base, figure) for arm in others]
        for figure in (study.headline, *study.also)
    }
    found["the loss"] = [_loss_gap(study, arms, arm) for arm in others]
    for figure, differences in found.items():
        claims = [
            f"{arm} {_signed(difference)}"
            for arm, difference in zip(others, differences, strict=True)
            if difference and difference.found
        ]
        told = ", ".join(claims) if claims else "no difference was found"
        if any(differences):
            parts.append(f"in {figure} {told}")
    if not others:
        return f"There is no other arm than {base}."
    luck = "" if seeds > 1 else " It takes two seeds to claim a difference."
    return (
        f"Against {study.baseline}, at this budget and with {seeds} seed{'s' * (seeds != 1)}: "
        f"{'; '.join(parts)}.{luck}"
    )


def how(study: Study, arms: Arms, flags: str = "") -> str:
    """How the arms were trained and what is claimed, from the command's flags on.

    Args:
        flags: those before the seeds.
    """
    seeds = sorted({one.seed for own in arms.values() for one in own})
    before = study.before
    stage = "" if before is None else f" after {before.steps} steps of `{before.recipe}`"
    if before is not None and before.arms:
        stage += f" ({', '.join(before.arms)} alone)"
    times = {study.arms[arm].get("max_minutes") for arm in arms}
    alike = {
        "steps": "All arms took the same steps on the same samples.",
        "flops": "All arms spent the same operations in the denoiser's forward passes.",
        "minutes": "All arms trained for the same time on this machine"
        + ("." if len(times) == 1 else ", but for those whose name says otherwise."),
    }[study.equal]
    baseline = arms[study.baseline][0]
    return (
        f"`{flags}--seeds {','.join(map(str, seeds))}`: `{study.recipe}`, "
        f"{baseline.steps} steps of the baseline{stage}. {alike} A difference is "
        "claimed where its 95 % interval leaves zero out. With two seeds or more that interval "
        "holds the luck of training beside that of the samples. The page was made with "
        f"{machine.line(machine.describe(torch.device('cpu')))}."
    )


def _cost_table(study: Study, arms: Arms) -> str:
    rows: list[Row] = []
    for arm, own in arms.items():
        gap = _loss_gap(study, arms, arm)
        rows.append(
            {
                "arm": arm,
                "parameters": f"{own[0].parameters:,}",
                "steps": f"{own[0].steps:,}",
                "TFLOPs forward": f"{own[0].flops / 1e12:.3g}",
                "minutes a seed": ", ".join(f"{one.seconds / 60:.1f}" for one in own),
                "loss": f"{mean_loss(own):.4f}",
                "difference": _against(arm, study, gap, 4),
            }
        )
    levels = ", ".join(f"{level:g}" for level in LEVELS)
    note = f"The loss is the squared error at noise levels {levels} on the same held-back samples."
    if len({study.is_on_latents(arm) for arm in arms}) > 1:
        note += " Losses of latents are of another scale than those of pixels."
    return f"{_table(rows)}\n\n{note}"


def _loss_gap(study: Study, arms: Arms, arm: str) -> Difference | None:
    """The difference in loss to the baseline; None where the two are of different scales."""
    scale = study.is_on_latents(study.baseline)
    alike = {name: own for name, own in arms.items() if study.is_on_latents(name) == scale}
    return compare_losses(alike, arm, study.baseline) if arm in alike else None


def _figure_table(study: Study, arms: Arms, real: Mapping[str, float] | None) -> str:
    base = arms[study.baseline]
    metrics = base[0].metrics
    names = dict.fromkeys((study.headline, *(name for name in metrics if _is_shown(name, metrics))))
    rows: list[Row] = []
    for name in names:
        first = pooled(base, name)
        row: Row = {"figure": name, "floor": "-" if first is None else f"{first.floor:.3f}"}
        if real is not None:
            row["real"] = f"{real[name]:.3f}" if name in real else "-"
        for arm, own in arms.items():
            value = pooled(own, name)
            gap = _against(arm, study, compare(arms, arm, study.baseline, name), 3)
            row[arm] = "-" if value is None else f"{value.value:.3f} ({gap})".replace(" (-)", "")
        rows.append(row)
    note = (
        "In brackets the difference to the baseline with its 95 % interval; * where it is found; "
        "- where nothing could be judged."
    )
    return f"{_table(rows)}\n\n{note}"


def _samples(study: Study, arms: Arms, runs: Path, pictures: Path) -> str:
    lines = [_what_is_shown(study), ""]
    measures = study.measures
    scales = (1.0,) if isinstance(measures, ClipMeasures) else measures.images
    for scale in scales:
        at = at_scale(scale)
        if at:
            lines += ["", f"At {scale:g} times the trained size:", ""]
        for index, (arm, own) in enumerate(arms.items()):
            source = arm_folder(runs, arm, own[0].seed) / f"samples{at}.png"
            if source.is_file():
                target = pictures / f"samples-{index}{at}.png"
                _enlarge(source, target)
                lines.append(f"- {arm}: ![samples of {arm}]({pictures.name}/{target.name})")
    return "\n".join(lines)


def _what_is_shown(study: Study) -> str:
    """The sentence above the samples."""
    if isinstance(study.measures, ClipMeasures):
        return "The same noise in every arm."
    told = ", ".join(f'"{prompt}"' for prompt in sample_prompts(study.measures))
    return f"The same noise in every arm, and the same prompts: {told}."


def _enlarge(source: Path, target: Path) -> None:
    """A picture as many times as large as the page has room for, its pixels left sharp."""
    with Image.open(source) as picture:
        times = max(1, min(WIDTH // picture.width, HEIGHT // picture.height))
        size = (times * picture.width, times * picture.height)
        picture.resize(size, Image.Resampling.NEAREST).save(target)


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
        if value is None:
            continue
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


def _is_shown(metric: str, metrics: Collection[str]) -> bool:
    """Whether a figure has a row: not GenEval's rules, and of kinds of prompts the strict verdicts
    where there are both."""
    parts = set(metric.split("@")[0].split("."))
    if {"seen", "heldout"} & parts:
        return "strict" in parts and metric.replace(".seen", ".heldout") in metrics
    return "parity" not in parts


def _against(arm: str, study: Study, difference: Difference | None, digits: int) -> str:
    return "-" if arm == study.baseline or difference is None else _signed(difference, digits)


def _signed(difference: Difference, digits: int = 3) -> str:
    value, low, high = (
        f"{number:+.{digits}f}" for number in (difference.value, difference.low, difference.high)
    )
    return f"{value}, {low} to {high}{'*' if difference.found else ''}"


def _table(rows: Sequence[Row]) -> str:
    columns = [(key, lambda row, key=key: row[key]) for key in rows[0]]
    return "\n".join(markdown(columns, rows))
