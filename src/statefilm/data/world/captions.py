"""The caption grammar: descriptions to sentences, in canonical form or paraphrased, and back.

    caption = [opening] things [setting article BACKGROUND "background"]
    things  = group relation group | group {joiner group}
    group   = count [size] [color] noun [manner color] ["that"] [verb [then verb]] [turns color]

One set of phrase tables serves for writing and for reading. The first phrase for a meaning is the
canonical one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, TypeVar

from statefilm.data.world.scene import BACKGROUNDS, COLORS, DIRECTIONS, Description, Group

Choose = Callable[[Sequence[str]], str]
Value = TypeVar("Value")

OPENINGS = ("", "a picture of", "an image of", "a photo of", "a drawing of", "a scene with")
CLIP_OPENINGS = ("", "a video of", "a clip of", "an animation of", "a film of", "a scene with")
JOINERS = ("and", "with", "together with", "along with", "alongside")
SETTINGS = ("on", "against", "set against", "placed on", "upon")
THENS = (", then", "and then", ", and then", ", after that", ", afterwards")
TURNS = ("turns", "becomes", "changes to", "switches to")
MANNERS = ("", "in", "colored", "painted", "of color")  # "": the colour stands before the noun
COUNTS = {
    1: ("a", "one", "a single", "exactly one"),
    2: ("two", "2", "a pair of", "exactly two"),
    3: ("three", "3", "a group of three", "exactly three"),
    4: ("four", "4", "a group of four", "exactly four"),
}
SIZES = {
    "small": ("small", "little", "tiny", "mini"),
    "large": ("large", "big", "huge", "giant"),
}
NOUNS = {
    "circle": ("circle", "disc", "disk", "dot"),
    "square": ("square", "box", "block", "tile"),
    "triangle": ("triangle", "wedge", "pyramid", "triangular shape"),
    "cross": ("cross", "plus", "plus sign", "plus shape"),
}
RELATIONS = {
    "left of": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "higher than", "higher up than"),
    "below": ("below", "under", "beneath", "lower than"),
}
VERBS = {
    "still": ("stays still", "remains still", "keeps still", "does not move"),
    "left": ("moves left", "moves to the left", "slides left", "travels to the left"),
    "right": ("moves right", "moves to the right", "slides right", "travels to the right"),
    "up": ("moves up", "moves upwards", "slides up", "rises"),
    "down": ("moves down", "moves downwards", "slides down", "sinks"),
    "bounce": ("bounces", "bounces up and down", "hops", "keeps bouncing"),
    "orbit": ("orbits", "moves in a circle", "moves around in a ring", "goes round and round"),
    "grow": ("grows", "gets bigger", "gets larger", "expands"),
    "shrink": ("shrinks", "gets smaller", "becomes smaller", "contracts"),
}
_TOKEN = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


class CaptionError(ValueError):
    """A caption that the grammar does not hold."""


def canonical(description: Description) -> str:
    """The canonical caption, such as "a red circle left of a blue square"."""
    return paraphrase(description, lambda phrases: phrases[0])


def paraphrase(description: Description, choose: Choose) -> str:
    """A caption in which `choose` picks each phrase from its alternatives."""
    moving = any(group.moves for group in description.groups)
    opening = choose(CLIP_OPENINGS if moving else OPENINGS)
    relation = description.relation
    between = choose(JOINERS) if relation is None else choose(RELATIONS[relation])
    groups = [_write_group(group, choose, bool(opening)) for group in description.groups]
    parts = [opening, f" {between} ".join(groups)]
    if description.background is not None:
        parts.append(f"{choose(SETTINGS)} {_with_article(description.background)} background")
    return " ".join(filter(None, parts)).replace(" ,", ",")


def parse(caption: str) -> Description:
    """Reads a caption of the grammar, in any paraphrase; raises CaptionError for any other text."""
    return parse_spans(caption)[0]


def parse_spans(caption: str) -> tuple[Description, list[slice]]:
    """`parse`, and of each group the stretch of `tokenize(caption)` that tells of it."""
    reader = _Reader(caption)
    reader.take(_OPENING)
    groups, spans = [], []

    def read_group() -> None:
        start = reader.position
        groups.append(_read_group(reader))
        spans.append(slice(start, reader.position))

    read_group()
    relation = reader.take(_RELATION)
    if relation is not None:
        read_group()
    else:
        while reader.take(_JOINER):
            read_group()
    background = None
    if reader.take(_SETTING):
        reader.expect(_ARTICLE, "an article")
        background = reader.expect(_BACKGROUND, "a background")
        reader.expect(_BACKGROUND_WORD, '"background"')
    reader.take(_STOP)
    reader.end()
    try:
        return Description(tuple(groups), relation, background), spans
    except ValueError as error:
        reader.fail(str(error))


def tokenize(caption: str) -> list[str]:
    """Splits a caption into lower-case words and punctuation marks."""
    return _TOKEN.findall(caption.lower())


def vocabulary() -> list[str]:
    """Every word and punctuation mark of the grammar, lower case, sorted."""
    return sorted({word for table in _TABLES for phrase in table for word in phrase})


def _write_group(group: Group, choose: Choose, embedded: bool) -> str:
    noun = choose(NOUNS[group.shape])
    phrase = noun if group.count == 1 else _plural(noun)
    if group.color is not None:
        manner = choose(MANNERS)
        phrase = f"{phrase} {manner} {group.color}" if manner else f"{group.color} {phrase}"
    if group.size is not None:
        phrase = f"{choose(SIZES[group.size])} {phrase}"
    count = choose(COUNTS[group.count])
    words = [_with_article(phrase) if count == "a" else f"{count} {phrase}"]
    if group.moves and embedded:
        words.append("that")
    if group.motion:
        words.append(_write_motion(group.motion, choose))
    if group.becomes is not None:
        words += [*(["and"] if group.motion else []), choose(TURNS), group.becomes]
    return " ".join(words)


def _write_motion(kinds: tuple[str, ...], choose: Choose) -> str:
    verbs = [choose(VERBS[kind]) for kind in kinds]
    if len(verbs) == 1:
        return verbs[0]
    first, second = verbs
    if kinds[0] in DIRECTIONS and second == f"moves {kinds[1]}":
        second = kinds[1]
    return f"{first} {choose(THENS)} {second}"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _read_group(reader: _Reader) -> Group:
    count = reader.expect(_COUNT, "a number of things")
    size = reader.take(_SIZE)
    color = reader.take(_COLOR)
    shape, single = reader.expect(_NOUN, "a shape")
    if single != (count == 1):
        reader.fail(f"the number of {shape!r} does not agree with the count {count}")
    if color is None and reader.take(_MANNER):
        color = reader.expect(_COLOR, "a color")
    reader.take(_THAT)
    first = reader.take(_VERB)
    motion: tuple[str, ...] = () if first is None else (first,)
    if first and reader.take(_THEN):
        motion += (reader.take(_DIRECTION) or reader.expect(_VERB, "a motion"),)
    turns = reader.take(_AND_TURNS if first else _TURNS)
    becomes = reader.expect(_COLOR, "a color") if turns else None
    try:
        return Group(shape, color, size, count, motion, becomes)
    except ValueError as error:
        reader.fail(str(error))


class _Reader:
    """Takes phrases off the front of a caption, always the longest that a table holds."""

    def __init__(self, caption: str) -> None:
        self.caption = caption
        self.tokens = tokenize(caption)
        self.position = 0

    def take(self, table: Mapping[tuple[str, ...], Value]) -> Value | None:
        for length in range(_LONGEST, 0, -1):
            phrase = tuple(self.tokens[self.position : self.position + length])
            if phrase in table:
                self.position += len(phrase)
                return table[phrase]
        return None

    def expect(self, table: Mapping[tuple[str, ...], Value], what: str) -> Value:
        value = self.take(table)
        if value is None:
            self.fail(f"expected {what}")
        return value

    def end(self) -> None:
        if self.position < len(self.tokens):
            self.fail("expected the end")

    def fail(self, reason: str) -> NoReturn:
        rest = " ".join(self.tokens[self.position :]) or "the end"
        raise CaptionError(f"cannot read caption {self.caption!r} at {rest!r}: {reason}")


def _table(phrases: Mapping[Value, Iterable[str]]) -> dict[tuple[str, ...], Value]:
    return {tuple(tokenize(p)): value for value, many in phrases.items() for p in many if p}


def _names(names: Iterable[str]) -> dict[tuple[str, ...], str]:
    return _table({name: (name,) for name in names})


def _marks(phrases: Iterable[str]) -> dict[tuple[str, ...], bool]:
    return _table({True: phrases})


_TABLES = (
    _OPENING := _marks(OPENINGS + CLIP_OPENINGS),
    _JOINER := _marks(JOINERS),
    _SETTING := _marks(SETTINGS),
    _ARTICLE := _marks(("a", "an")),
    _BACKGROUND := _names(BACKGROUNDS),
    _BACKGROUND_WORD := _marks(("background",)),
    _STOP := _marks((".",)),
    _COUNT := _table({**COUNTS, 1: (*COUNTS[1], "an")}),
    _SIZE := _table(SIZES),
    _COLOR := _names(COLORS),
    _MANNER := _marks(MANNERS),
    _NOUN := {
        **_table({(shape, True): nouns for shape, nouns in NOUNS.items()}),
        **_table({(shape, False): map(_plural, nouns) for shape, nouns in NOUNS.items()}),
    },
    _RELATION := _table(RELATIONS),
    _THAT := _marks(("that",)),
    _VERB := _table(VERBS),
    _THEN := _marks(THENS),
    _DIRECTION := _names(DIRECTIONS),
    _TURNS := _marks(TURNS),
    _AND_TURNS := _marks(f"and {turns}" for turns in TURNS),
)
_LONGEST = max(len(phrase) for table in _TABLES for phrase in table)
