"""The page of `temporal-quality`: a part for each world and length, and one sentence for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from statefilm.evaluation.clips import FEATURES, read_clips, real_clips
from statefilm.experiments.comparison import compare_losses
from statefilm.experiments.report import Arms, body, by_arm, finding, how
from statefilm.experiments.runner import Outcome
from statefilm.experiments.study import ClipMeasures, Study
from statefilm.experiments.temporal.quality import NAME, QUESTION, WAYS
from statefilm.training.recipe import UNetRecipe

NOTES = (
    "All arms have the parameters of bi-S6 in their temporal layers, within 5 %. The loss is the "
    "sharp figure: all arms are given the same held-back clips with the same noise, and its "
    "interval is a paired bootstrap over clips. `fvd_rand128` is a Fréchet distance in the "
    "features of a fixed random network, not a published FVD: it sees looks before motion, its "
    "value falls with the number of clips, its interval is a jackknife over generated clips, and "
    "its floor is the distance of two sets of real clips. The other figures are the world's laws "
    "read from the frames; `real` are those of real clips, their floor those of real clips with "
    "frames in random order."
)


def write_quality_page(
    studies: Sequence[Study], outcomes: Sequence[Sequence[Outcome]], runs: Path, folder: Path
) -> Path:
    """Write `temporal-quality.md`, with pictures in folders beside it; the page's path.

    Args:
        outcomes: of each study, those of the baseline among them.
        runs: where the studies' folders are, as `study_folder` names them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = [f"# Study: {NAME}", QUESTION, NOTES]
    sentences = []
    for study, own in zip(studies, outcomes, strict=True):
        arms = by_arm(own)
        place = study_folder(study)
        sections += [
            f"## {study.name[0].upper()}{study.name[1:]}",
            f"`statefilm experiment {NAME}` with {how(study, arms, _flags(study))} "
            f"{_judged(study)}",
            *body(
                study,
                arms,
                runs / place,
                folder / f"{NAME}-{place}",
                level="###",
                real=_real(study),
            ),
        ]
        sentences.append(f"- {study.name}: {found(study, arms)}")
    sections += ["## Found", "\n".join(sentences)]
    page = folder / f"{NAME}.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    return page


def found(study: Study, arms: Arms) -> str:
    """`finding`, and in the loss whether seeing both ways beats one way; lower is better."""
    parts = [finding(study, arms)]
    for both, one in WAYS:
        if both not in arms or one not in arms:
            continue
        gap = compare_losses(arms, both, one)
        verdict = "better" if gap.value < 0 else "worse"
        claim = f"{both} is {verdict} than" if gap.found else f"{both} is no different from"
        numbers = f"{gap.value:+.4f}, {gap.low:+.4f} to {gap.high:+.4f}"
        parts.append(f"In the loss {claim} {one} ({numbers}).")
    return " ".join(parts)


def study_folder(study: Study) -> str:
    """The folder of a study's runs, such as "balls-16-frames"."""
    return re.sub(r"\W+", "-", study.name)


def _flags(study: Study) -> str:
    """What tells the command which world and length."""
    section = study.recipe_of(study.baseline, 0).data[0].clips
    assert section is not None
    return f"--worlds {section.world} --frames {section.num_frames} "


def _judged(study: Study) -> str:
    """What a step is, and what the FVD rests on."""
    measures, stream = study.measures, study.recipe_of(study.baseline, 0).data[0]
    assert isinstance(measures, ClipMeasures)
    clips = f"{stream.batch_size} clip{'s' if stream.batch_size > 1 else ''}"
    return (
        f"A step takes {clips} of {stream.drawn.num_frames} frames; clips of all lengths come to "
        f"as many frames. `fvd_rand128` is that of {measures.clips} clips on each side in "
        f"{FEATURES} features, made with {measures.steps} steps of DDIM."
    )


def _real(study: Study) -> dict[str, float]:
    """The readings of as many real clips as each arm made."""
    recipe, measures = study.recipe_of(study.baseline, 0), study.measures
    assert isinstance(recipe, UNetRecipe) and isinstance(measures, ClipMeasures)
    section = recipe.data[0].clips
    assert section is not None
    real, _ = real_clips(
        section.world, measures.clips, size=section.size, num_frames=section.num_frames
    )
    found = read_clips(section.world, real)
    return {name: metric.value for name, metric in found.items()}
