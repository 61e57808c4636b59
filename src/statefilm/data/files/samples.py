"""Training samples from a user's files: a batch as a function of its global indices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from statefilm.data.files.buckets import Bucket
from statefilm.data.files.entry import BadItem, Entry
from statefilm.data.files.images import Color
from statefilm.data.files.load import WHITE, load
from statefilm.data.files.plan import BucketPlan
from statefilm.data.files.quarantine import Quarantine
from statefilm.data.files.source import Source
from statefilm.data.files.verify import verify
from statefilm.errors import UsageError

__all__ = ["FileBatch", "FileSamples"]

_ATTEMPTS = 16  # substitutes tried for one sample


@dataclass(frozen=True, slots=True)
class FileBatch:
    """Samples: `frames` float32 [B, 3, T, H, W] in [-1, 1], a caption and a name for each."""

    frames: Tensor
    captions: list[str]
    names: list[str]


class FileSamples:
    """The samples of a plan, read from a source.

    A sample is a function of the data, the plan and its global index. Where an entry turns out to
    be bad it is quarantined, and another one, which depends on the index alone, takes its place.

    Args:
        source: the data.
        plan: made from the source's entries.
        quarantine: remembers bad items. Those that the index refused are entered at once, and
            those of earlier runs that can be read by now, or are gone, are taken off.
        fps: frames a second of clips, as in `assign`; None takes their own.
        background: what shows through transparent pixels.

    Attributes:
        total: how many items there are, good and bad.

    Raises:
        UsageError: the index refused too many items.
    """

    def __init__(
        self,
        source: Source,
        plan: BucketPlan,
        quarantine: Quarantine | None = None,
        *,
        fps: float | None = None,
        background: Color = WHITE,
    ) -> None:
        self.source, self.plan, self.fps, self.background = source, plan, fps, background
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self.total = len(source.entries) + len(source.refused)
        self._forget_mended()
        for name, reason in source.refused.items():
            self.quarantine.add(name, reason, self.total)

    def bucket(self, step: int) -> Bucket:
        """The shape of a step's samples."""
        return self.plan.bucket(step)

    def batch(self, start: int, count: int) -> FileBatch:
        """The samples of the global indices `start` to `start + count - 1`, all of one step.

        Raises:
            UsageError: they are of several steps; or too many items are bad.
        """
        if count < 1 or start < 0:
            raise UsageError(f"start {start} and count {count} are no range of samples")
        size = self.plan.batch_size
        if start // size != (start + count - 1) // size:
            raise UsageError(f"samples {start} to {start + count - 1} are not of one step")
        samples = [self._sample(index) for index in range(start, start + count)]
        frames = torch.stack([frames for _, frames in samples]).float() / 127.5 - 1
        seeds = [f"{self.plan.seed}:{index}" for index in range(start, start + count)]
        entries = [entry for entry, _ in samples]
        captions = [entry.caption(seed) for entry, seed in zip(entries, seeds, strict=True)]
        return FileBatch(frames, captions, [entry.name for entry in entries])

    def _forget_mended(self) -> None:
        known = self.quarantine.reasons.keys() - self.source.refused.keys()
        there = [entry for entry in self.source.entries if entry.name in known]
        self.quarantine.forget(known - verify(self.source, there).keys())

    def _sample(self, index: int) -> tuple[Entry, Tensor]:
        number = self.plan.entry(index)
        for attempt in range(1, _ATTEMPTS + 1):
            entry = self.source.entries[number]
            try:  # whatever is known of it: what a sample shows must not depend on the past
                return entry, self._load(entry, index)
            except BadItem as error:
                self.quarantine.add(error.name, error.reason, self._seen(index), self.total)
            number = self.plan.substitute(index, attempt)
        bucket = self.bucket(index // self.plan.batch_size)
        raise UsageError(f"bucket {bucket}: {_ATTEMPTS} items in a row are bad, as {entry.name!r}")

    def _load(self, entry: Entry, index: int) -> Tensor:
        bucket = self.bucket(index // self.plan.batch_size)
        return load(
            self.source.root,
            entry,
            bucket.size,
            num_frames=bucket.num_frames,
            fps=self.fps,
            seed=f"{self.plan.seed}:{index}",
            background=self.background,
            limits=self.source.limits,
        )

    def _seen(self, index: int) -> int:
        """Items that all processes have seen at a sample: steps are taken in order."""
        step = index // self.plan.batch_size + 1
        return min(step * self.plan.batch_size, len(self.source.entries)) + len(self.source.refused)
