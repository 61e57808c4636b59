"""The prompt lists of the benchmark: six tasks of images with GenEval's keys, five of clips.

`python -m statefilm.data.world.tasks` writes the lists beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations, permutations, product
from pathlib import Path
from random import Random
from typing import Any

from statefilm.data.world.captions import canonical
from statefilm.data.world.sample import MOVING
from statefilm.data.world.scene import (
    COLORS,
    DIRECTIONS,
    RELATIONS,
    SHAPES,
    Description,
    Group,
)

Prompt = dict[str, Any]
T2I_TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
T2V_TASKS = (
    "motion_class",
    "multiple_objects",
    "spatial_relationship",
    "event_order",
    "dynamic_attribute",
)
COLOR_ATTR_PROMPTS = 100
MULTIPLE_PROMPTS = 32


def t2i_prompts() -> list[Prompt]:
    """The 208 prompts of the six tasks: tag, include, exclude and prompt, as GenEval has them.

    The requirements of an `include` entry are class, count, color and, as [relation, index of the
    entry it refers to], position.
    """
    return [
        *(_prompt("single_object", Description((Group(shape),))) for shape in SHAPES),
        *(_prompt("two_object", _pair(a, b)) for a, b in permutations(SHAPES, 2)),
        *(
            _prompt("counting", Description((Group(shape, count=count),)))
            for shape, count in product(SHAPES, (2, 3, 4))
        ),
        *(
            _prompt("colors", Description((Group(shape, color),)))
            for shape, color in product(SHAPES, COLORS)
        ),
        *(
            _prompt("position", _pair(a, b, relation=relation))
            for (a, b), relation in product(permutations(SHAPES, 2), RELATIONS)
        ),
        *(_prompt("color_attr", description) for description in _color_pairs()),
    ]


def t2v_prompts() -> list[Prompt]:
    """The 128 prompts of the motion class: each motion with four colours of each shape.

    The keys are those of `t2i_prompts` with "motion", one of `MOVING`, in the `include` entry.
    """
    colors = tuple(COLORS)
    return [
        _prompt(
            "motion_class",
            Description((Group(shape, colors[(2 * i + m + s) % len(colors)], motion=(motion,)),)),
        )
        for (m, motion), (s, shape), i in product(enumerate(MOVING), enumerate(SHAPES), range(4))
    ]


def t2v_dimension_prompts() -> list[Prompt]:
    """The 160 prompts of the other tasks of clips.

    Two things of which one moves, a relation that stays, one motion after another, and a change of
    colour. An `include` entry holds what is told, "then" and "becomes" among it. Each task's
    prompts stand in a fixed random order, so that any stretch of them is mixed.
    """
    colors = tuple(COLORS)
    shapes_and_events = product(enumerate(SHAPES), enumerate(permutations(DIRECTIONS, 2)))
    descriptions = {
        "multiple_objects": [_pair_in_motion(i) for i in range(MULTIPLE_PROMPTS)],
        "spatial_relationship": [
            _pair(a, b, relation=relation)
            for (a, b), relation in product(permutations(SHAPES, 2), RELATIONS)
        ],
        "event_order": [
            Description((Group(shape, colors[(2 * s + i) % len(colors)], motion=motion),))
            for (s, shape), (i, motion) in shapes_and_events
        ],
        "dynamic_attribute": [
            Description((Group(shape, color, becomes=colors[(i + s) % len(colors)]),))
            for (s, shape), (i, color) in product(enumerate(SHAPES, 1), enumerate(colors))
        ],
    }
    for tag, own in descriptions.items():
        Random(tag).shuffle(own)
    return [_prompt(tag, one) for tag, own in descriptions.items() for one in own]


LISTS: dict[str, Callable[[], list[Prompt]]] = {
    "t2i": t2i_prompts,
    "t2v": t2v_prompts,
    "t2v_dimensions": t2v_dimension_prompts,
}


def prompt_file(name: str) -> Path:
    """The JSON Lines file of a list, a key of `LISTS`."""
    if name not in LISTS:
        raise ValueError(f"unknown prompt list {name!r}: valid are {', '.join(LISTS)}")
    return Path(__file__).with_name(f"{name}_prompts.jsonl")


def load_prompts(name: str) -> list[Prompt]:
    """The committed prompts of a list, a key of `LISTS`."""
    return [json.loads(line) for line in prompt_file(name).read_text("utf-8").splitlines()]


def _pair(first: str, second: str, **fields: Any) -> Description:
    return Description((Group(first), Group(second)), **fields)


def _pair_in_motion(index: int) -> Description:
    """Two things of different shapes and colours, one of which moves."""
    pairs, colors = tuple(permutations(SHAPES, 2)), tuple(COLORS)
    first, second = pairs[index % len(pairs)]
    motions = [(MOVING[index % len(MOVING)],), ("still",)][:: 1 if index % 2 else -1]
    return Description(
        (
            Group(first, colors[index % len(colors)], motion=motions[0]),
            Group(second, colors[(index + 1 + index // 8) % len(colors)], motion=motions[1]),
        )
    )


def _color_pairs() -> list[Description]:
    """A fixed choice of pairs in which shapes differ and colours differ, in either order."""
    uniform = Random("color_attr").random
    pairs = [
        (Group(a, color_a), Group(b, color_b))
        for (a, b), (color_a, color_b) in product(combinations(SHAPES, 2), permutations(COLORS, 2))
    ]
    chosen = sorted(pairs, key=lambda _: uniform())[:COLOR_ATTR_PROMPTS]
    return [Description(pair if uniform() < 0.5 else pair[::-1]) for pair in chosen]


def _prompt(tag: str, description: Description) -> Prompt:
    include: list[dict[str, Any]] = []
    for group in description.groups:
        entry: dict[str, Any] = {"class": group.shape, "count": group.count}
        if group.color is not None:
            entry["color"] = group.color
        if group.motion:
            entry["motion"] = group.motion[0]
        if group.motion[1:]:
            entry["then"] = group.motion[1]
        if group.becomes is not None:
            entry["becomes"] = group.becomes
        include.append(entry)
    if description.relation is not None:
        # As in GenEval, the thing that is placed comes second and points at the first.
        include.reverse()
        include[1]["position"] = [description.relation, 0]
    exclude = []
    if tag == "counting":
        exclude = [{"class": entry["class"], "count": entry["count"] + 1} for entry in include]
    prompt = canonical(description)
    return {"tag": tag, "include": include, "exclude": exclude, "prompt": prompt}


if __name__ == "__main__":
    for name, generate in LISTS.items():
        lines = (json.dumps(prompt) + "\n" for prompt in generate())
        prompt_file(name).write_text("".join(lines), "utf-8")
