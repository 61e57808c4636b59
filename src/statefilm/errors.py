"""The error that means "the input was wrong", shared by every room and mapped to exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral

__all__ = ["UsageError", "check_stepped", "suggest"]


class UsageError(ValueError):
    """Bad input: its message is one line that names the value and says what would be valid."""


def suggest(name: str, choices: Iterable[str], kind: str) -> UsageError:
    """The error for an unknown `name` of a `kind`: the nearest of `choices`, then all of them."""
    choices = sorted(choices)
    folded = {choice.casefold(): choice for choice in choices}
    nearest = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[nearest[0]]!r}? " if nearest else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}choose from {', '.join(choices) or 'none'}")


def check_stepped(name: str, value: int, step: int, offset: int = 0) -> None:
    """Raise unless `value` is `offset + k * step`, k >= 0, positive; says the nearest.

    Args:
        name: what the value is, for the message ("height").
        value: the number to check.
        step: distance of valid values, >= 1.
        offset: 0 for sizes (the first valid value is `step`), 1 for frames (the first is 1).
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name} must be a whole number, got {value!r}")
    first = offset or step
    if value >= first and (value - offset) % step == 0:
        return
    below = offset + (value - offset) // step * step
    nearest = [str(n) for n in (below, below + step) if n >= first] or [str(first)]
    rule = f"{offset} + k * {step}" if offset else f"a multiple of {step}"
    rule = "positive" if first == step == 1 else rule
    verb = "are" if len(nearest) == 2 else "is"
    valid = f"the nearest valid {verb} {' and '.join(nearest)}"
    raise UsageError(f"{name} {value} is not {rule}: {valid}")
