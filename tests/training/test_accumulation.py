"""A batch in parts is the batch; and a step that is not finite keeps the names of its samples."""

import json

import pytest

from statefilm.training import Trainer

from .conftest import metrics, tiny_recipe, train


def test_parts_have_the_losses_of_the_whole(tmp_path):
    changes = ["steps=6", "optimizer.name=adamw", "optimizer.lr=0.001", "precision=float32"]
    for count in (1, 2, 4):
        train(tiny_recipe(*changes, f"accumulate={count}"), tmp_path / str(count))
    whole, *parts = (metrics(tmp_path / str(count)) for count in (1, 2, 4))
    for course in parts:
        assert [line["samples"] for line in course] == [line["samples"] for line in whole]
        for here, there in zip(course, whole, strict=True):
            assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)


def test_a_batch_that_does_not_fall_into_parts_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.0\.batch_size 4 .* accumulate 3 .* valid is 6"):
        train(tiny_recipe("accumulate=3"), tmp_path)


class Faulty(Trainer):
    """The loss of one part of the second step is infinite."""

    def _build(self, vocabulary=None):
        super()._build(vocabulary)
        loss, self.calls = self.task.loss, 0

        def faulty(batch):
            self.calls += 1
            return loss(batch) * (float("inf") if self.calls == 4 else 1)

        self.task.loss = faulty


def test_a_skipped_step_keeps_the_names_of_its_samples(tmp_path):
    trainer = Faulty(tiny_recipe("steps=3", "accumulate=2"), tmp_path, device="cpu", quiet=True)
    trainer.fit()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 3]
    (line,) = map(json.loads, (tmp_path / "logs" / "skipped.jsonl").read_text().splitlines())
    assert line["step"] == 2
    assert line["samples"] == trainer.task.batches[1].names
    assert len(line["samples"]) == 4
