"""Choices to a score: the Bradley-Terry model with ties, and the plain rate of wins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from statefilm.evaluation.world.statistics import Z_95, wilson_interval
from statefilm.experiments.prefer.choices import Choice


@dataclass(frozen=True)
class Preference:
    """How far system a is preferred to system b.

    Attributes:
        wins, losses, ties: choices for a, for b, and for neither.
        score: Bradley-Terry score of a less that of b: the log odds that a is preferred where one
            of both is. Above 0, a is the better.
        score_interval: its 95 % interval.
        win_rate: 0 to 1, the part of the choices for a, ties as one half.
        win_rate_interval: its 95 % interval.
    """

    wins: int
    losses: int
    ties: int
    score: float
    score_interval: tuple[float, float]
    win_rate: float
    win_rate_interval: tuple[float, float]

    @property
    def count(self) -> int:
        """How many pairs were judged."""
        return self.wins + self.losses + self.ties

    def sentence(self, a: str = "A", b: str = "B") -> str:
        """What was found; a preference is claimed where the score's interval leaves zero out."""
        low, high = self.score_interval
        if low > 0 or high < 0:
            found = f"{a} is preferred to {b}" if low > 0 else f"{b} is preferred to {a}"
        else:
            found = f"no preference between {a} and {b} was found in {self.count} pairs"
        return f"{found[:1].upper()}{found[1:]}."


def preference(choices: Iterable[Choice]) -> Preference:
    """The score of some choices, each of its own pair.

    The score is the maximum of the Bradley-Terry likelihood with ties (R. R. Davidson, JASA 65
    (1970), 317), for two systems ln(wins / losses), and the interval that of its Hessian. Half a
    choice is added to each side, which keeps both finite (J. B. S. Haldane, 1956). The interval of
    the win rate is Wilson's, too wide rather than too narrow where there are ties.
    """
    counts = Counter(choice.preferred for choice in choices)
    wins, losses, ties = counts["a"], counts["b"], counts["equal"]
    score = math.log((wins + 0.5) / (losses + 0.5))
    spread = Z_95 * math.sqrt(1 / (wins + 0.5) + 1 / (losses + 0.5))
    total, won = wins + losses + ties, wins + ties / 2
    return Preference(
        wins=wins,
        losses=losses,
        ties=ties,
        score=score,
        score_interval=(score - spread, score + spread),
        win_rate=won / total if total else 0.5,
        win_rate_interval=wilson_interval(won, total),
    )
