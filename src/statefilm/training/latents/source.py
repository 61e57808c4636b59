"""Encoded files as what a stream draws from: latents in the place of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from statefilm.data.files import BucketPlan
from statefilm.data.latents import LatentCache, LatentSamples
from statefilm.training.sources import Samples, Size, words_of

__all__ = ["OwnLatents"]


class OwnLatents:
    """A user's encoded images and clips; a `Source` of streams.

    Its sizes are those of the frames, its samples hold latents [B, C, t, h, w].

    Args:
        seed: of the order, and of what is drawn from the VAE's code.
        cache: see `open_latents_for`.
        batch_size: of the stream.
        drop_last: leave out the batches of an epoch that are not full.
    """

    in_epochs = True
    class_names: tuple[str, ...] | None = None

    def __init__(
        self, seed: int, cache: LatentCache, batch_size: int, *, drop_last: bool = False
    ) -> None:
        plan = BucketPlan(cache.assignment, batch_size, seed, drop_last=drop_last)
        self.reader = LatentSamples(cache, plan)
        members = cache.assignment.members
        commonest = sorted(plan.buckets, key=lambda bucket: -len(members[bucket]))
        self.sizes: tuple[Size, ...] = tuple((b.num_frames, *b.size) for b in commonest)
        self.captions: Sequence[str] = [text for row in cache.rows for text in row.captions]
        self.num_classes: int | None = 1 + max(row.label for row in cache.rows) or None

    @property
    def words(self) -> Sequence[str]:
        """Words and punctuation of the captions, lower-cased, the most frequent first."""
        counts = Counter(word for text in self.captions for word in words_of(text))
        return sorted(counts, key=lambda word: (-counts[word], word))

    def samples(self, start: int, count: int) -> Samples:
        """Samples `start` to `start + count - 1`, which are of one step."""
        batch = self.reader.batch(start, count, text=False)
        return Samples(batch.latents, batch.captions, batch.labels, batch.names)

    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """States [B, S, D] and mask [B, S] of captions, "" where dropped; None if not encoded."""
        cache = self.reader.cache
        return None if cache.encoding.text is None else cache.text(captions)
