"""The `data` section of recipes: streams of batches, and where their samples come from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from statefilm.data.files import LAYOUTS, RATIOS
from statefilm.data.files import SPLITS as FILE_SPLITS
from statefilm.data.world import FAMILIES
from statefilm.data.world.sample import ORDERS
from statefilm.data.world.splits import SPLITS
from statefilm.data.worlds import SPLITS as CLIP_SPLITS
from statefilm.data.worlds import WORLDS
from statefilm.errors import UsageError
from statefilm.training.fields import (
    Count,
    Finite,
    NotNegative,
    Positive,
    Section,
    Share,
    choose,
)

__all__ = [
    "ClipSamples",
    "FileSource",
    "LatentSource",
    "LogitNormal",
    "Stream",
    "Timesteps",
    "WorldSamples",
]

Side = Annotated[int, Field(ge=32, le=256, multiple_of=2)]
Level = Annotated[int, Field(ge=0, le=255)]
SOURCES = ("world", "clips", "files", "latents")


class WorldSamples(Section):
    """Which samples of the world a stream draws; see `data.world.sample_batch`."""

    size: Annotated[int, Field(ge=32, le=256)] = 64
    num_frames: Count = 1
    split: str = "train"
    mix: dict[str, NotNegative] | None = None
    order: str = "random"

    @field_validator("split")
    @classmethod
    def _known_split(cls, value: str) -> str:
        return choose(value, SPLITS, "split")

    @field_validator("order")
    @classmethod
    def _known_order(cls, value: str) -> str:
        return choose(value, ORDERS, "order")

    @field_validator("mix")
    @classmethod
    def _known_families(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None:
            for family in value:
                choose(family, FAMILIES, "family")
            if not sum(value.values()) > 0:
                raise ValueError("the mix has no positive weight")
        return value


class ClipSamples(Section):
    """Which clips of the worlds of long clips a stream draws; see `data.worlds`."""

    world: str
    size: Side = 64
    num_frames: Count = 16
    split: str = "train"

    @field_validator("world")
    @classmethod
    def _known_world(cls, value: str) -> str:
        return choose(value, WORLDS, "world")

    @field_validator("split")
    @classmethod
    def _known_split(cls, value: str) -> str:
        return choose(value, CLIP_SPLITS, "split")


class FileSource(Section):
    """A user's own images and clips; see `data.files`.

    Each is brought to the shape of its bucket: about `area` pixels in one of `ratios`, sides in
    steps of `step`, and one of `lengths` in frames, 1 for images. A step's samples are of one
    bucket.

    Attributes:
        path: a folder or a file, counted from the folder that the run is started in.
        layout, split, template, cache: those of `data.files.open_source`.
        fps: frames a second of clips; null takes their own.
        stills: takes single frames of clips, as images, so that a model of clips learns from many
            more pictures in the same time.
        max_upscale: by how much a picture may be enlarged; smaller ones are dropped.
        background: red, green and blue of what shows through transparent pixels.
    """

    path: Annotated[str, Field(min_length=1)]
    layout: str = "auto"
    split: str = "train"
    template: str = "{}"
    cache: str | None = None
    area: Count = 64 * 64
    step: Count = 8
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)] = RATIOS
    lengths: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    fps: Positive | None = None
    stills: bool = False
    max_upscale: Positive = 1.5
    background: tuple[Level, Level, Level] = (255, 255, 255)

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, value: str) -> str:
        return choose(value, ("auto", *LAYOUTS), "layout")

    @field_validator("split")
    @classmethod
    def _known_split(cls, value: str) -> str:
        return choose(value, FILE_SPLITS, "split")

    @model_validator(mode="after")
    def _stills_are_images(self) -> FileSource:
        if self.stills and self.lengths != (1,):
            raise ValueError(f"stills are single frames: lengths {list(self.lengths)} must be [1]")
        return self


class LatentSource(Section):
    """What `statefilm encode` made of a user's own files with the recipe's VAE and text encoder.

    Attributes:
        path: the folder, counted from the one that the run is started in.
    """

    path: Annotated[str, Field(min_length=1)]


class LogitNormal(Section):
    """sigmoid(mean + std * normal); a positive mean shifts towards noise."""

    weight: Positive = 1.0
    mean: Finite = 0.0
    std: Positive = 1.0


class Timesteps(Section):
    """How noise levels in (0, 1) are drawn: a mixture of logit-normals and of uniform ones.

    Logit-normal sampling is that of Stable Diffusion 3 (arXiv 2403.03206, section 3.1).
    """

    logit_normal: tuple[LogitNormal, ...] = (LogitNormal(),)
    uniform: Share = 0.0

    @model_validator(mode="after")
    def _not_empty(self) -> Timesteps:
        if not self.logit_normal and self.uniform < 1:
            raise ValueError("without logit_normal, uniform must be 1")
        return self


class Stream(Section):
    """A source of batches. Each step draws one stream, with probability in proportion to weight.

    The source is one of `world` (captioned scenes, where none is named), `clips` (worlds of long
    clips), `files` (a user's own) and `latents` (those files, encoded ahead).

    `timesteps` replaces the objective's for this stream: the more frames show a thing, the more
    noise it takes to hide it, so that clips have to be learnt from higher levels than images.
    """

    world: WorldSamples | None = None
    clips: ClipSamples | None = None
    files: FileSource | None = None
    latents: LatentSource | None = None
    batch_size: Count = 32
    weight: Positive = 1.0
    timesteps: Timesteps | None = None

    @model_validator(mode="before")
    @classmethod
    def _world_by_default(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and all(fields.get(name) is None for name in SOURCES):
            return {**fields, "world": {}}
        return fields

    @model_validator(mode="after")
    def _one_source(self) -> Stream:
        if sum(getattr(self, name) is not None for name in SOURCES) > 1:
            raise ValueError("give one of world, clips, files and latents")
        return self

    @property
    def kind(self) -> str:
        """The name of the section that the samples come from."""
        return next(name for name in SOURCES if getattr(self, name) is not None)

    @property
    def drawn(self) -> WorldSamples | ClipSamples:
        """The section of the procedural world that the samples come from."""
        drawn = self.world or self.clips
        if drawn is None:
            raise UsageError(f"data.{self.kind} have no one size: give data.world or data.clips")
        return drawn
