"""The reader's gates: how often it reads truth right, and notices that truth was changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from statefilm.data.world.captions import parse
from statefilm.data.world.render import render
from statefilm.data.world.sample import compose, sample_batch
from statefilm.data.world.scene import BACKGROUNDS, Scene, Thing
from statefilm.data.world.tasks import Prompt, load_prompts
from statefilm.evaluation.world.reader import Found, Reading, read_images
from statefilm.evaluation.world.verdicts import judge

NOISE = 0.06  # standard deviation, in parts of the range of pixel values
_SCENES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Gate:
    """One figure: how many of `count` cases went right, and how many have to."""

    name: str
    right: int
    count: int
    needed: int

    @property
    def passed(self) -> bool:
        return self.right >= self.needed


def reader_gates(count: int = 2000, *, seed: int = 0, size: int = 64) -> list[Gate]:
    """Runs all gates on `count` scenes each (changes to scenes: on as many as the prompts allow).

    Clean scenes: number and colours of the things always right, shapes but for 1 scene in 1,000.
    With 6 % Gaussian noise: each in at least 99.5 % of the scenes. The verdicts on a true scene,
    parity and strict, always turn when two colours are swapped, left and right are swapped, or a
    thing is left out.
    """
    if count < 1:
        raise ValueError(f"count {count} is not a positive number of scenes")
    gates = []
    for condition, noise, allowed in (("clean", 0.0, (0, 0, 1)), ("noise", NOISE, (5, 5, 5))):
        right = torch.zeros(3, dtype=torch.long)
        for scenes, readings in _read_scenes(count, seed, size, noise):
            for scene, reading in zip(scenes, readings, strict=True):
                right += torch.tensor(agreement(scene.things, reading))
        for name, hits, permille in zip(
            ("count", "color", "shape"), right.tolist(), allowed, strict=True
        ):
            gates.append(Gate(f"{condition}.{name}", hits, count, count - permille * count // 1000))
    return [*gates, *_change_gates(count, seed, size)]


def swap_colors(scene: Scene) -> Scene:
    """The scene with the colours of its first two things exchanged."""
    a, b, *rest = scene.things
    return replace(scene, things=(replace(a, color=b.color), replace(b, color=a.color), *rest))


def mirror(scene: Scene) -> Scene:
    """The scene with left and right exchanged."""
    return replace(scene, things=tuple(replace(t, x=1 - t.x) for t in scene.things))


def drop(scene: Scene) -> Scene:
    """The scene without its last thing."""
    return replace(scene, things=scene.things[:-1])


CHANGES = {"swap_colors": swap_colors, "mirror": mirror, "drop": drop}


def draw_scenes(count: int, seed: int, size: int) -> Iterator[tuple[list[Scene], torch.Tensor]]:
    """Scenes of all families on all backgrounds, some at a time, and their [N, 3, size, size]."""
    names = tuple(BACKGROUNDS)
    for start in range(0, count, _SCENES_AT_ONCE):
        part = range(start, min(count, start + _SCENES_AT_ONCE))
        drawn = sample_batch(seed, start, len(part), size=size, split="all").scenes
        scenes = [
            replace(scene, background=names[index % len(names)])
            for index, scene in zip(part, drawn, strict=True)
        ]
        yield scenes, render(scenes, size=size)[:, :, 0]


def agreement(
    things: Sequence[Thing] | Sequence[Found], reading: Reading
) -> tuple[bool, bool, bool]:
    """Whether number, colours and shapes of the things are as read; each thing by its place."""
    if len(things) != len(reading.objects):
        return False, False, False
    pairs = [
        (thing, min(reading.objects, key=lambda o: (o.x - thing.x) ** 2 + (o.y - thing.y) ** 2))
        for thing in things
    ]
    return (
        True,
        all(thing.color == found.color for thing, found in pairs),
        all(thing.shape == found.shape for thing, found in pairs),
    )


def _read_scenes(
    count: int, seed: int, size: int, noise: float
) -> Iterator[tuple[list[Scene], list[Reading]]]:
    """Scenes with what is read from their pictures, under Gaussian noise."""
    for number, (scenes, images) in enumerate(draw_scenes(count, seed, size)):
        generator = torch.Generator().manual_seed(seed + number * _SCENES_AT_ONCE)
        # The range of pixel values is 2 wide.
        images = images + 2 * noise * torch.randn(images.shape, generator=generator)
        yield scenes, read_images(images)


def _change_gates(count: int, seed: int, size: int) -> list[Gate]:
    prompts = load_prompts("t2i")
    sideways = ("left of", "right of")
    cases: dict[str, list[Prompt]] = {
        "swap_colors": [p for p in prompts if p["tag"] == "color_attr"],
        "mirror": [p for p in prompts if p["include"][-1].get("position", [""])[0] in sideways],
        "drop": [p for p in prompts if p["tag"] in ("two_object", "counting", "position")],
    }
    return [_change_gate(name, chosen, count, seed, size) for name, chosen in cases.items()]


def _change_gate(name: str, prompts: Sequence[Prompt], count: int, seed: int, size: int) -> Gate:
    """How often both verdicts hold of a scene and neither holds once it is changed."""
    turned = 0
    for start in range(0, count, _SCENES_AT_ONCE):
        part = range(start, min(count, start + _SCENES_AT_ONCE))
        chosen = [prompts[index % len(prompts)] for index in part]
        scenes = [compose(parse(p["prompt"]), seed, i) for p, i in zip(chosen, part, strict=True)]
        changed = [CHANGES[name](scene) for scene in scenes]
        before, after = (read_images(render(s, size=size)[:, :, 0]) for s in (scenes, changed))
        for prompt, truth, other in zip(chosen, before, after, strict=True):
            turned += all(judge(truth, prompt).values()) and not any(judge(other, prompt).values())
    return Gate(f"turned.{name}", turned, count, count)
