"""Glyphs: digits that can be told apart, what the reader finds, and verdicts on false clips."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statefilm.data.worlds import WORLDS
from statefilm.data.worlds.glyphs import GlyphsSaid
from statefilm.data.worlds.glyphs.font import DIGITS, HALF_BOX, draw_digit
from statefilm.data.worlds.glyphs.scene import LIGHTS, reflect
from statefilm.errors import UsageError

GLYPHS = WORLDS["glyphs"]
NAMES = ("count", "digits", "moving", "straight", "collisions")


def mean(frames, name):
    values = [v[name] for v in GLYPHS.verdicts(GLYPHS.read(frames)) if not math.isnan(v[name])]
    return sum(values) / len(values)


@pytest.mark.parametrize("size", [32, 64])
def test_no_two_digits_look_alike_and_all_are_in_their_box(size):
    pixels = (torch.arange(size) + 0.5) / size
    middle = torch.tensor([0.5])
    digits = torch.cat([draw_digit(d, middle, middle, pixels, pixels) for d in range(DIGITS)])
    shared = torch.minimum(digits[:, None], digits).sum((-2, -1))
    area = digits.sum((1, 2))
    overlap = shared / (area[:, None] + area - shared)
    assert float((overlap - torch.eye(DIGITS)).max()) < 0.7
    across = (pixels - 0.5).abs() > HALF_BOX[0] + 0.6 / size
    down = (pixels - 0.5).abs() > HALF_BOX[1] + 0.6 / size
    assert float(digits[:, :, across].sum() + digits[:, down].sum()) == 0


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_reflection_stays_in_the_box_and_keeps_the_speed(x, y):
    ways = reflect(torch.tensor([[x, y], [x + 1e-4, y - 1e-4]], dtype=torch.float64))
    low = torch.tensor(HALF_BOX, dtype=torch.float64)
    assert ((ways >= low - 1e-9) & (ways <= 1 - low + 1e-9)).all()
    assert float(ways.diff(dim=0).abs().max()) <= 1e-4 + 1e-9
    assert torch.allclose(reflect(ways), ways)


def test_clips_hold_the_truth():
    batch = GLYPHS.sample_batch(4, 0, 16, num_frames=24)
    for reading, truth, caption in zip(
        GLYPHS.read(batch.frames), batch.truths, batch.captions, strict=True
    ):
        pairs = tuple(zip(truth.lights, truth.digits, strict=True))
        assert GLYPHS.parse(caption) in (GlyphsSaid(len(pairs)), GlyphsSaid(len(pairs), pairs))
        assert [LIGHTS[light] for light in reading.cast] == list(truth.lights)
        for glyph, light in enumerate(reading.cast):
            assert reading.digits[:, light].tolist() == [truth.digits[glyph]] * 24
            away = (reading.centres[:, light] - truth.centres[:, glyph]).norm(dim=-1)
            assert float(away.max()) * 64 < 0.15


@pytest.mark.parametrize("caption", ["a red two and a red six bounce", "a pink two bounces"])
def test_captions_of_impossible_lights_are_named(caption):
    with pytest.raises(UsageError, match=caption):
        GLYPHS.parse(caption)


@pytest.mark.parametrize(("size", "noise", "least"), [(64, 0, 0.99), (64, 0.06, 0.95),
                                                      (32, 0, 0.99), (32, 0.06, 0.95)])  # fmt: skip
def test_true_clips_pass(size, noise, least):
    frames = GLYPHS.sample_batch(0, 0, 12, num_frames=40, size=size).frames
    frames += noise * torch.randn_like(frames)
    for name in NAMES:
        assert mean(frames, name) >= least


def test_shuffled_and_frozen_clips_fail():
    frames = GLYPHS.sample_batch(0, 0, 8, num_frames=32).frames
    shuffled = frames[:, :, torch.randperm(32)]
    assert mean(shuffled, "straight") < 0.1
    assert mean(shuffled, "collisions") < 0.1
    assert mean(frames[:, :, :1].expand_as(frames), "moving") == 0


def test_a_digit_that_becomes_another_or_vanishes_fails():
    (truth,) = GLYPHS.sample_batch(0, 2, 1, num_frames=40).truths
    frames = GLYPHS.render(truth, 64)[None]
    other = replace(truth, digits=tuple((digit + 1) % DIGITS for digit in truth.digits))
    changed = torch.cat([frames[:, :, :30], GLYPHS.render(other, 64)[None, :, 30:]], dim=2)
    assert mean(changed, "digits") == 0.75
    assert mean(changed, "count") == 1
    gone = frames.clone()
    gone[:, :, 30:] = -1
    assert mean(gone, "count") == 0.75
    assert mean(gone, "straight") < 1


def test_ink_that_is_no_digit_counts_as_an_error():
    frames = GLYPHS.sample_batch(0, 0, 4, num_frames=8).frames
    frames[..., 20:44, 20:44] = 1.0
    assert mean(frames, "count") == 0


def test_digits_that_leave_the_border_the_wrong_way_fail():
    (truth,) = GLYPHS.sample_batch(0, 2, 1, num_frames=40).truths
    wall = 1 - HALF_BOX[0]
    for rest, share in ((0.03, 1.0), (0.0, 0.0)):  # comes back, or stays at the border
        x = [wall - 0.03 * abs(t - 19.5) if t < 20 else wall - rest * (t - 19.5) for t in range(40)]
        way = torch.tensor([[place, 0.5] for place in x], dtype=torch.float64)
        alone = replace(truth, digits=(4,), lights=("green",), centres=reflect(way)[:, None])
        assert mean(GLYPHS.render(alone, 64)[None], "collisions") == share
