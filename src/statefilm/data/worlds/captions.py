"""Words that the captions of several worlds share: numbers, and lists of things with an article."""

from __future__ import annotations

from collections.abc import Sequence

from statefilm.errors import UsageError

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_count(count: int, noun: str) -> str:
    """A number of things and what they do, such as "two balls bounce"."""
    return f"one {noun} bounces" if count == 1 else f"{NUMBERS[count]} {noun}s bounce"


def write_list(things: Sequence[str]) -> str:
    """Things and what they do, such as "a red ball, a blue ball and a cyan ball bounce"."""
    named = [f"a {thing}" for thing in things]
    if len(named) == 1:
        return f"{named[0]} bounces"
    return f"{', '.join(named[:-1])} and {named[-1]} bounce"


def read_count(caption: str, noun: str, most: int) -> int | None:
    """The inverse of `write_count` for 1 to `most` things; None for other texts."""
    for count in range(1, most + 1):
        if caption == write_count(count, noun):
            return count
    return None


def read_list(caption: str) -> list[str] | None:
    """The inverse of `write_list`; None for other texts."""
    body, _, verb = caption.rpartition(" ")
    named = [thing for part in body.split(" and ") for thing in part.split(", ")]
    things = [thing.removeprefix("a ") for thing in named]
    return things if write_list(things) == f"{body} {verb}" else None


def unreadable(caption: str, example: str) -> UsageError:
    """The error for a caption outside a grammar, with an `example` of what is inside."""
    return UsageError(f"cannot read caption {caption!r}: valid is such as {example!r}")
