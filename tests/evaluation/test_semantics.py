"""Faith to the prompt: the oracle scores 1 in each dimension, a clip of another prompt low."""

import pytest

from statefilm.data.world import parse
from statefilm.data.world.tasks import load_prompts
from statefilm.evaluation.world import oracle
from statefilm.evaluation.world.evidence import read_evidence
from statefilm.evaluation.world.semantics import OF_ALL, OF_TASK, SEMANTICS

# dimension: (what is asked for, what is shown instead)
FAULTS = {
    "object_class": ("a red circle moves left", "a red square moves left"),
    "color": ("a red circle moves left", "a blue circle moves left"),
    "multiple_objects": ("a red circle and a blue square", "a red circle and a green square"),
    "spatial_relationship": ("a circle left of a square", "a circle right of a square"),
    "motion_class": ("a red circle moves left", "a red circle moves right"),
    "event_order": (
        "a red circle moves left, then moves down",
        "a red circle moves down, then moves left",
    ),
    "dynamic_attribute": ("a red circle turns blue", "a blue circle turns red"),
    "instance_preservation": ("a red circle moves left", "a red circle and a blue square"),
    "overall_consistency": ("a red circle moves left", "a blue square moves up"),
}


def score(name, asked, shown, num_frames=9):
    (clip,) = read_evidence(oracle([shown], [5], num_frames=num_frames))
    return SEMANTICS[name](clip, parse(asked))


def test_every_dimension_is_asked_for():
    asked = {name for names in OF_TASK.values() for name in names} | set(OF_ALL)
    assert asked == SEMANTICS.keys() == FAULTS.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_asked_for_scores_one_and_another_thing_nothing(name):
    asked, shown = FAULTS[name]
    assert score(name, asked, asked) == 1
    assert score(name, asked, shown) == 0


@pytest.mark.parametrize("num_frames", [8, 17])
def test_the_oracle_of_every_list_is_right(num_frames):
    """Two prompts of each task, at an odd and an even number of frames."""
    prompts = [*load_prompts("t2v"), *load_prompts("t2v_dimensions")]
    for task, names in OF_TASK.items():
        own = [prompt["prompt"] for prompt in prompts if prompt["tag"] == task]
        for text in own[:: len(own) // 2]:
            for name in (*names, *OF_ALL):
                assert score(name, text, text, num_frames) == 1, (name, text)


def test_shares_count_all_frames():
    frames = oracle(["a red circle moves left"], [5], num_frames=8)
    frames[:, :, 6:] = -0.85
    (clip,) = read_evidence(frames)
    asked = parse("a red circle moves left")
    assert SEMANTICS["object_class"](clip, asked) == SEMANTICS["color"](clip, asked) == 0.75
    assert SEMANTICS["instance_preservation"](clip, asked) == 0


def test_a_clip_without_things():
    (clip,) = read_evidence(oracle(["a circle"], [0], num_frames=5) * 0 - 0.85)
    for name, (asked, _) in FAULTS.items():
        assert SEMANTICS[name](clip, parse(asked)) == 0
