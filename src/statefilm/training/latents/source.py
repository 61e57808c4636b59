"""Encoded files as what a stream draws from: latents in the place of frames."""

from __future__ import annotations

from collections.abc import Sequence

from statefilm.data.files import BucketPlan
from statefilm.data.latents import LatentCache, LatentSamples
from statefilm.training.sources import Samples, Size, digest_of, words_in

__all__ = ["OwnLatents"]


class OwnLatents:
    """A user's encoded images and clips; a `Source` of streams.

    Its sizes are those of the frames, its samples hold latents [B, C, t, h, w].

    Args:
        seed: of the order, and of what is drawn from the VAE's code.
        cache: see `open_latents_for`.
        batch_size: of the stream.
    """

    in_epochs = True
    class_names: tuple[str, ...] | None = None

    def __init__(self, seed: int, cache: LatentCache, batch_size: int) -> None:
        plan = BucketPlan(cache.assignment, batch_size, seed)
        self.cache: LatentCache | None = cache
        self.reader = LatentSamples(cache, plan)
        self.fps = cache.fps
        members = cache.assignment.members
        commonest = sorted(plan.buckets, key=lambda bucket: -len(members[bucket]))
        self.sizes: tuple[Size, ...] = tuple((b.num_frames, *b.size) for b in commonest)
        self.captions: Sequence[str] = [text for row in cache.rows for text in row.captions]
        self.num_classes: int | None = 1 + max(row.label for row in cache.rows) or None
        self.fingerprint = digest_of((row.key, row.captions, row.label) for row in cache.rows)

    @property
    def words(self) -> Sequence[str]:
        return words_in(self.captions)

    def samples(self, start: int, count: int) -> Samples:
        """Samples `start` to `start + count - 1`, which are of one step."""
        batch = self.reader.batch(start, count, text=False)
        bucket = self.reader.bucket(start // self.reader.plan.batch_size)
        size = (bucket.num_frames, *bucket.size)
        return Samples(size, batch.latents, batch.captions, batch.labels, batch.names)
