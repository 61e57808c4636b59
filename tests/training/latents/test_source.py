"""Encoded files as a stream's source."""

import torch

from statefilm.data.latents import open_latents
from statefilm.training.latents import EncoderSpec, OwnLatents


def test_samples_are_latents_in_epochs(encode, tmp_path):
    encode()
    source = OwnLatents(0, open_latents(tmp_path / "latents"), 3)
    assert source.sizes[0] == (1, 16, 16) and set(source.sizes[1:]) == {(1, 8, 16), (5, 16, 16)}
    assert source.num_classes is None and source.in_epochs
    assert source.words[0] == "level" and set(source.words) >= {"0", "11"}
    seen = set()
    for step in range(source.reader.plan.steps_per_epoch):
        samples = source.samples(3 * step, 3)
        frames, height, width = samples.frames.shape[2:]
        assert (1 + 2 * (frames - 1), 4 * height, 4 * width) == samples.size
        assert samples.size in source.sizes
        states, mask = source.cache.text(["", *samples.captions[1:]])
        assert states.shape[:2] == mask.shape == (3, 8) and mask[0].sum() == 1
        assert samples.labels.tolist() == [-1] * 3
        seen.update(samples.names)
    assert len(seen) == 15


def test_without_states_there_are_none(encode, tmp_path):
    encode(encoders=EncoderSpec())
    source = OwnLatents(0, open_latents(tmp_path / "latents"), 2)
    assert source.cache.encoding.text is None
    assert source.samples(0, 2).frames.dtype == torch.float32
