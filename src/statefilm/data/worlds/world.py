"""What the worlds share: batches of clips as a function of (seed, index), and readings of clips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

import torch

from statefilm.errors import UsageError, check_stepped, suggest

Truth = TypeVar("Truth")
Reading = TypeVar("Reading")

SPLITS = ("train", "test")
MIN_SIZE, MAX_SIZE = 32, 256


@dataclass(frozen=True, slots=True)
class VideoBatch(Generic[Truth]):
    """Samples of a world.

    Attributes:
        frames: float32 [B, 3, T, H, W] in [-1, 1].
        captions: B sentences of the world's grammar.
        labels: int64 [B], classes from 0 to `num_classes - 1`.
        truths: what each clip shows, with its state in every frame.
    """

    frames: torch.Tensor
    captions: list[str]
    labels: torch.Tensor
    truths: list[Truth]


class World(ABC, Generic[Truth, Reading]):
    """A source of clips, and the reader that tells from frames alone whether its laws hold.

    Class attributes:
        name: the world's key in `WORLDS`.
        describe: one sentence that says what a clip shows.
        class_names: the meaning of each label.
        words: every word of the captions, sorted.
    """

    name: ClassVar[str]
    describe: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    words: ClassVar[tuple[str, ...]]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def sample_batch(
        self,
        seed: int,
        start: int,
        count: int,
        *,
        size: int = 64,
        num_frames: int = 64,
        split: str = "train",
    ) -> VideoBatch[Truth]:
        """Draws the samples `start` to `start + count - 1` of a seed.

        A sample is a function of seed, index and split, whatever the batch it is drawn in. Size
        only says how it is painted, and its first frames are the same however many are asked for.

        Args:
            size: side of the canvas in pixels, an even number from 32 to 256.
            num_frames: length of the clips, 1 or more.
            split: "train" or "test": two streams that share no sample.

        Raises:
            UsageError: for values outside these.
        """
        if split not in SPLITS:
            raise suggest(str(split), SPLITS, "split")
        check_stepped("count", count, 1)
        check_stepped("num_frames", num_frames, 1)
        check_stepped("size", size, 2)
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise UsageError(f"size {size} is outside {MIN_SIZE} to {MAX_SIZE} pixels")
        keys = [f"{self.name}:{split}:{seed}:{index}" for index in range(start, start + count)]
        truths = [self.compose(Random(key), num_frames) for key in keys]
        frames = torch.empty(count, 3, num_frames, size, size)
        for clip, truth in zip(frames, truths, strict=True):
            clip.copy_(self.render(truth, size))
        # Words have a stream of their own: a walk draws as many numbers as it has frames.
        captions = [
            self.caption(truth, Random(f"{key}:caption"))
            for key, truth in zip(keys, truths, strict=True)
        ]
        labels = torch.tensor([self.label(truth) for truth in truths])
        return VideoBatch(frames, captions, labels, truths)

    @abstractmethod
    def compose(self, random: Random, num_frames: int) -> Truth:
        """A random clip's content and its state in each frame."""

    @abstractmethod
    def render(self, truth: Truth, size: int) -> torch.Tensor:
        """Paints a clip: float32 [3, T, size, size] in [-1, 1]."""

    @abstractmethod
    def caption(self, truth: Truth, random: Random) -> str:
        """A true sentence about a clip."""

    @abstractmethod
    def parse(self, caption: str) -> Any:
        """What a caption says; raises UsageError for a text outside the grammar."""

    @abstractmethod
    def label(self, truth: Truth) -> int:
        """The class of a clip."""

    @abstractmethod
    def label_of(self, reading: Reading) -> int | None:
        """The class that a read clip shows; None where it shows none of them."""

    @abstractmethod
    def read(self, frames: torch.Tensor) -> list[Reading]:
        """Reads clips, floating point [B, 3, T, H, W] in [-1, 1], each by itself."""

    @abstractmethod
    def verdict(self, reading: Reading) -> dict[str, float]:
        """How well one clip keeps the world's laws, each a share from 0 to 1."""

    def verdicts(self, readings: Sequence[Reading]) -> list[dict[str, float]]:
        """`verdict` of each clip. A share is nan where the clip holds nothing to judge by it."""
        return [self.verdict(reading) for reading in readings]


def unit_rgb(frames: torch.Tensor) -> torch.Tensor:
    """Clips [B, 3, T, H, W] in [-1, 1] as float32 [B, T, H, W, 3] in [0, 1], values clipped.

    Raises:
        UsageError: for another shape or type, or for values that are not finite.
    """
    square = frames.ndim == 5 and frames.shape[1] == 3 and frames.shape[3] == frames.shape[4]
    if not square or not frames.is_floating_point():
        kind = f"{frames.dtype} {list(frames.shape)}"
        raise UsageError(f"frames are {kind}: valid are floating point numbers [B, 3, T, H, H]")
    if frames.shape[3] < MIN_SIZE or frames.shape[3] % 2:
        raise UsageError(f"frames of {frames.shape[3]} pixels: valid are even sizes from 32")
    if not frames.isfinite().all():
        raise UsageError("frames hold values that are not finite: valid are -1 to 1")
    return ((frames.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 4, 1)
