"""What `temporal-memory` found, in plain sentences drawn from its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from statefilm.evaluation.speed.report import Row
from statefilm.experiments.temporal.arms import ATTENTION
from statefilm.experiments.temporal.memory import CROSSING_LIMIT, GROWTH, MemoryResults

LINEAR = 0.05  # by which bytes a frame may differ where growth is called linear
STATE_SPACES = ("s4d-uni", "s4d-bi", "s6-uni", "s6-bi", "hydra", "bimamba2")
SPEED_FRAMES = (64, 256, 1024)


def found(results: MemoryResults) -> Iterator[str]:
    """A sentence for each question, subject and comparison."""
    places = dict.fromkeys((row["subject"], row["comparison"]) for row in results.layers)
    for subject, comparison in places:
        layers = [row for row in results.layers if _at(row, subject, comparison)]
        rows = [row for row in results.rows if _at(row, subject, comparison)]
        start = f"{subject[0].upper()}{subject[1:]}, {comparison}: "
        yield start + _growth(layers)
        yield start + _crossings(layers)
        for frames in SPEED_FRAMES:
            sentence = _speed(rows, frames)
            if sentence:
                yield start + sentence


def _growth(layers: Sequence[Row]) -> str:
    span = f"from {GROWTH[0]} to {GROWTH[1]} frames"
    linear = [row["arm"] for row in layers if row["growth"] <= LINEAR]
    others = [
        f"{row['arm']} {100 * row['growth']:.0f} %" for row in layers if row["growth"] > LINEAR
    ]
    text = f"{span} bytes a frame stay within 5 % for {_listed(linear)}"
    return f"{text}; they change by more for {_listed(others)}." if others else f"{text}."


def _crossings(layers: Sequence[Row]) -> str:
    own = [row for row in layers if row["arm"] in STATE_SPACES]
    passed = [
        f"{row['arm']} {_from(row['attention_passes_at'])}"
        for row in own
        if row["attention_passes_at"] is not None
    ]
    never = [row["arm"] for row in own if row["attention_passes_at"] is None]
    text = f"attention keeps more for its backward than {_listed(passed)}"
    if never:
        text = f"{text}; up to {CROSSING_LIMIT} never more than {_listed(never)}"
    return f"{text}."


def _from(frames: int) -> str:
    return "at any length" if frames == 1 else f"from {frames} frames on"


def _speed(rows: Sequence[Row], frames: int) -> str:
    at = {row["arm"]: row for row in rows if row["frames"] == frames and row["step_seconds"]}
    own = [arm for arm in STATE_SPACES if arm in at]
    if ATTENTION not in at or not own:
        return ""
    parts = []
    for arm in own:
        forward, step = (
            at[ATTENTION][pass_] / at[arm][pass_] for pass_ in ("forward_seconds", "step_seconds")
        )
        parts.append(f"{arm} {forward:.2f} and {step:.2f}")
    return (
        f"at {frames} frames attention takes this many times as long, forward and a training "
        f"step: {', '.join(parts)}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def _at(row: Row, subject: str, comparison: str) -> bool:
    return row["subject"] == subject and row["comparison"] == comparison
