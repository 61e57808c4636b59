"""One sitting: which pair is next, what a choice on a side means, and how it stands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Lock
from typing import Any

from statefilm.errors import UsageError
from statefilm.experiments.prefer.choices import Choice, ChoiceLog
from statefilm.experiments.prefer.pairs import MEDIA_TYPES, Pair
from statefilm.experiments.prefer.score import Preference, preference

SIDES = ("left", "right")
ANSWERS = (*SIDES, "equal")


class Session:
    """The pairs in the order in which they are shown, with the choices made so far.

    Args:
        pairs: from `shuffled`.
        log: where choices go; pairs that it holds are not asked for again.
    """

    def __init__(self, pairs: Sequence[Pair], log: ChoiceLog) -> None:
        self.pairs, self.log = list(pairs), log
        self._lock = Lock()

    def state(self) -> dict[str, Any]:
        """What the page shows, ready for JSON; it tells the systems only when all is judged."""
        left = self._open()
        state: dict[str, Any] = {"done": len(self.pairs) - len(left), "total": len(self.pairs)}
        if left:
            return {**state, "pair": self.shown(left[0]), "next": [*map(self.shown, left[1:2])]}
        return {**state, "result": self._result()}

    def shown(self, index: int) -> dict[str, Any]:
        """A pair as the page may know it, blind: number, prompt, kinds and earlier answer."""
        pair = self.pairs[index]
        kinds = {side: MEDIA_TYPES[pair.file(side).suffix.lower()] for side in SIDES}
        return {"index": index, "prompt": pair.prompt, "kinds": kinds, "answer": self._answer(pair)}

    def answer(self, index: int, answer: str, seconds: float) -> None:
        """Record that a side, or neither, is the better one of a pair.

        Raises:
            UsageError: no such pair or answer, or a time that is none.
        """
        self.check(index)
        if answer not in ANSWERS:
            raise UsageError(f"unknown answer {answer!r}: valid are {', '.join(ANSWERS)}")
        if not 0 <= seconds < 1e9:
            raise UsageError(f"seconds {seconds} is not a time >= 0")
        pair = self.pairs[index]
        preferred = {"left": pair.left, "right": pair.right}.get(answer, "equal")
        with self._lock:
            self.log.add(Choice(pair.name, preferred, pair.left, round(seconds, 2), time.time()))

    def check(self, index: int) -> None:
        """Raises UsageError where there is no pair of that number."""
        if not 0 <= index < len(self.pairs):
            raise UsageError(f"pair {index} does not exist: valid are 0 to {len(self.pairs) - 1}")

    def preference(self) -> Preference:
        """The score of the pairs judged so far."""
        names = {pair.name for pair in self.pairs}
        return preference(c for name, c in self.log.choices.items() if name in names)

    def _open(self) -> list[int]:
        judged = self.log.choices
        return [index for index, pair in enumerate(self.pairs) if pair.name not in judged]

    def _answer(self, pair: Pair) -> str | None:
        choice = self.log.choices.get(pair.name)
        sides = {pair.left: "left", pair.right: "right"}
        return None if choice is None else sides.get(choice.preferred, "equal")

    def _result(self) -> dict[str, Any]:
        found, (a, b) = self.preference(), self.log.systems
        return {
            "a": a,
            "b": b,
            "wins": found.wins,
            "losses": found.losses,
            "ties": found.ties,
            "win_rate": [found.win_rate, *found.win_rate_interval],
            "score": [found.score, *found.score_interval],
            "sentence": found.sentence(a, b),
        }
