"""Clips of a model beside real ones: what is perfect scores so, and what shows nothing does not."""

import pytest
import torch

from statefilm.errors import UsageError
from statefilm.evaluation.clips import evaluate_clips, real_clips

SIZES = {"size": 32, "num_frames": 8}


def evaluate(make, **options):
    return evaluate_clips(make, "balls", clips=16, **SIZES, **options)


def test_real_clips_are_as_good_as_real_clips():
    real, labels = real_clips("balls", 16, **SIZES)
    asked, told = [], []

    def make(labels, seeds):
        asked.extend(labels)
        return real[list(seeds)]

    results, clips = evaluate(make, by_class=True, progress=lambda *done: told.append(done))
    assert torch.equal(clips, real) and asked == labels
    assert told == [(4, 16), (8, 16), (12, 16), (16, 16)]
    assert results.metrics["fvd_rand128"].value == pytest.approx(0, abs=1e-6)
    assert results.metrics["fvd_rand128"].floor > 0.01
    assert results.metrics["class"].value == 1 > results.metrics["class"].floor
    for name, value in results.oracle.items():
        assert results.metrics[name].value == value
    assert "class" in results.table()


def test_what_shows_nothing_is_far_from_real():
    blank = torch.full((16, 3, 8, 32, 32), -1.0)
    results, _ = evaluate(lambda labels, seeds: blank[list(seeds)], by_class=True)
    far = results.metrics["fvd_rand128"]
    assert far.value > 2 * far.floor
    assert results.metrics["class"].value == results.metrics["class"].floor == 0


def test_without_classes_none_is_asked_for():
    real, _ = real_clips("balls", 16, **SIZES)

    def make(labels, seeds):
        assert labels is None
        return real[[seed - 100 for seed in seeds]]

    results, _ = evaluate(make, seed=100)
    assert "class" not in results.metrics


def test_too_few_clips_are_refused():
    with pytest.raises(UsageError, match="2 generated clips are too few"):
        evaluate_clips(
            lambda labels, seeds: torch.zeros(2, 3, 8, 32, 32), "balls", clips=2, **SIZES
        )
