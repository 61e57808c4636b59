"""Dimensions of quality: a clean clip scores high in each, a clip with one fault low in its own."""

from dataclasses import replace

import pytest
import torch

from statefilm.data.world.render import render
from statefilm.data.world.scene import Motion, Scene, Thing
from statefilm.evaluation.world.evidence import read_evidence
from statefilm.evaluation.world.quality import QUALITY

FRAMES = 9
MOVER = Thing("square", "green", "large", 0.3, 0.5, Motion("right", 0.4))


def clip(*things, background="black"):
    return render([Scene(things, background)], num_frames=FRAMES)


def alternating(one, other):
    """Odd frames of another clip."""
    mixed = one.clone()
    mixed[:, :, 1::2] = other[:, :, 1::2]
    return mixed


def flashing():
    frames = clip(MOVER)
    frames[:, :, 1::2] = (frames[:, :, 1::2] + 0.5).clamp(max=1)
    return frames


def noisy():
    frames = clip(MOVER)
    return frames + 0.3 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))


def shaking():
    return torch.cat(
        [
            clip(replace(MOVER, motion=Motion(), x=0.4 + 0.15 * (i % 2)))[:, :, :1]
            for i in range(FRAMES)
        ],
        dim=2,
    )


FAULTS = {
    "subject_consistency": lambda: alternating(
        clip(MOVER), clip(replace(MOVER, color="red", shape="circle"))
    ),
    "background_consistency": lambda: alternating(clip(MOVER), clip(MOVER, background="maroon")),
    "temporal_flickering": flashing,
    "compensated_flickering": flashing,
    "motion_smoothness": shaking,
    "dynamic_degree": lambda: clip(replace(MOVER, motion=Motion())),
    "imaging_quality": noisy,
}


def scores(frames):
    (found,) = read_evidence(frames)
    return {name: measure(found) for name, measure in QUALITY.items()}


def test_a_clean_clip_scores_high_in_everything():
    found = scores(clip(MOVER))
    assert found.keys() == FAULTS.keys()
    assert found["subject_consistency"] == found["dynamic_degree"] == 1
    assert min(found.values()) > 0.9, found


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name):
    clean, faulty = scores(clip(MOVER))[name], scores(FAULTS[name]())[name]
    assert faulty < clean - 0.1, (clean, faulty)


def test_motion_is_flicker_until_it_is_compensated():
    still, fast = clip(replace(MOVER, motion=Motion())), clip(MOVER)
    (a, b) = scores(still), scores(fast)
    assert a["temporal_flickering"] == 1
    plain_loss = 1 - b["temporal_flickering"]
    assert 1 - b["compensated_flickering"] < plain_loss / 2


def test_growth_is_compensated_too():
    grown = scores(clip(Thing("circle", "red", "small", 0.5, 0.5, Motion("grow", 0.5))))
    assert grown["compensated_flickering"] > 0.99


def test_a_vanishing_thing_is_neither_consistent_nor_smooth():
    frames = clip(MOVER)
    frames[:, :, 3:5] = clip()[:, :, 3:5]
    found = scores(frames)
    assert found["subject_consistency"] < 0.8 and found["motion_smoothness"] < 0.6
    assert found["imaging_quality"] < 0.8


def test_an_empty_clip():
    found = scores(clip())
    assert found["background_consistency"] == found["temporal_flickering"] == 1
    rest = {"subject_consistency", "motion_smoothness", "dynamic_degree", "imaging_quality"}
    assert {found[name] for name in rest} == {0.0}
