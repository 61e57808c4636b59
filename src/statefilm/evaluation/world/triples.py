"""The soft score: how far what a picture or clip shows agrees with what its caption says, as F1.

Both are taken apart into triples, such as (circle, is, there), (circle, color, red) and
(circle, left of, square); of each kind only what the caption speaks of is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from statefilm.data.world.scene import INVERSE, Description, Group
from statefilm.evaluation.world.reader import Found, Reading
from statefilm.evaluation.world.verdicts import relations

Triples = Counter[tuple[str, str, str]]


@dataclass(frozen=True)
class Seen:
    """One thing of a picture or clip.

    Attributes:
        motion: its kinds of motion in their order; () where it is not known.
        becomes: its colour in the second half of a clip.
        places: frame to how it stands there.
    """

    shape: str
    color: str
    size: str | None = None
    motion: tuple[str, ...] = ()
    becomes: str | None = None
    places: Mapping[int, Found] = field(default_factory=dict)


def soft_score(found: Reading, asked: Description) -> float:
    """F1, 0 to 1, of the triples of a picture and of its caption."""
    things = [Seen(t.shape, t.color, t.size, places={0: t}) for t in found.objects]
    return agreement(things, found.background, asked)


def agreement(things: Sequence[Seen], background: str, asked: Description) -> float:
    """F1, 0 to 1, of the triples of things seen and of a caption."""
    wanted, shown = _wanted(asked), _shown(things, background, asked)
    return 2 * (wanted & shown).total() / (wanted.total() + shown.total())


def _wanted(asked: Description) -> Triples:
    triples: Triples = Counter()
    for group in asked.groups:
        for kind, value in _properties(group).items():
            triples[group.shape, kind, value] += group.count
    if asked.relation is not None:
        first, second = asked.groups
        triples[first.shape, asked.relation, second.shape] += 1
    if asked.background is not None:
        triples["background", "is", asked.background] += 1
    return triples


def _properties(thing: Group | Seen) -> dict[str, str]:
    """What is told of a thing, by kind."""
    told = {
        "is": "there",
        "color": thing.color,
        "size": thing.size,
        "motion": " then ".join(thing.motion),
        "becomes": thing.becomes,
    }
    return {kind: value for kind, value in told.items() if value}


def _shown(things: Sequence[Seen], background: str, asked: Description) -> Triples:
    spoken_of = {kind for group in asked.groups for kind in _properties(group)}
    triples: Triples = Counter()
    for thing in things:
        for kind, value in _properties(thing).items():
            if kind in spoken_of:
                triples[thing.shape, kind, value] += 1
    if asked.relation is not None:
        first, second = asked.groups
        pairs = [(a, b) for a in _like(things, first) for b in _like(things, second)]
        for relation in (asked.relation, INVERSE[asked.relation]):
            if any(_holds(a, relation, b) for a, b in pairs):
                triples[first.shape, relation, second.shape] += 1
    if asked.background is not None:
        triples["background", "is", background] += 1
    return triples


def _like(things: Sequence[Seen], group: Group) -> list[Seen]:
    return [t for t in things if t.shape == group.shape and group.color in (None, t.color)]


def _holds(a: Seen, relation: str, b: Seen) -> bool:
    """Whether a relation holds in most frames that show both."""
    common = a.places.keys() & b.places.keys()
    times = sum(relation in relations(a.places[frame], b.places[frame]) for frame in common)
    return a is not b and 2 * times > len(common)
