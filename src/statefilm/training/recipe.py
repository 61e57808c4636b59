"""The schema of recipes: what a training run is made of, every field with its default and range."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from statefilm.data.world import FAMILIES
from statefilm.data.world.splits import SPLITS
from statefilm.errors import suggest
from statefilm.models import PRESETS
from statefilm.models.plan import PLACEMENTS
from statefilm.models.text import TEXT_PRESETS
from statefilm.models.vae import VAE_PRESETS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanChange(Section):
    """Which state-space blocks scan temporal-major in videos; see `models.to_video`."""

    temporal_fraction: Share = 0.4
    placement: str = "spread"

    @field_validator("placement")
    @classmethod
    def _known(cls, value: str) -> str:
        return _choose(value, PLACEMENTS, "placement")


class Source(Section):
    """Weights: fresh ones of a preset, or those of a folder (a saved pipeline or a run)."""

    preset: str | None = None
    overrides: dict[str, Any] = {}
    init_from: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        if (self.preset is None) == (self.init_from is None):
            raise ValueError("give either preset or init_from")
        if self.init_from is not None and self.overrides:
            raise ValueError("overrides change a preset; what init_from holds is kept as it is")
        return self


class ModelSource(Source):
    """The denoiser. `plan` is applied to either source; null keeps what it has."""

    plan: PlanChange | None = None

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else _choose(value, PRESETS, "preset")


class TextSource(Source):
    """The text encoder; a fresh one reads the words of the world's grammar."""

    train: bool = False
    max_length: Count = 32

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else _choose(value, TEXT_PRESETS, "preset")


class VAESource(Source):
    """The VAE that a recipe of kind `vae` trains."""

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else _choose(value, VAE_PRESETS, "preset")


class WorldSamples(Section):
    """Which samples of the world a stream draws; see `data.world.sample_batch`."""

    size: Annotated[int, Field(ge=32, le=256)] = 64
    num_frames: Count = 1
    split: str = "train"
    mix: dict[str, NotNegative] | None = None

    @field_validator("split")
    @classmethod
    def _known_split(cls, value: str) -> str:
        return _choose(value, SPLITS, "split")

    @field_validator("mix")
    @classmethod
    def _known_families(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None:
            for family in value:
                _choose(family, FAMILIES, "family")
            if not sum(value.values()) > 0:
                raise ValueError("the mix has no positive weight")
        return value


class LogitNormal(Section):
    """sigmoid(mean + std * normal); a positive mean shifts towards noise."""

    weight: Positive = 1.0
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
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

    `timesteps` replaces the objective's for this stream: the more frames show a thing, the more
    noise it takes to hide it, so that clips have to be learnt from higher levels than images.
    """

    world: WorldSamples = WorldSamples()
    batch_size: Count = 32
    weight: Positive = 1.0
    timesteps: Timesteps | None = None

    @property
    def name(self) -> str:
        """What the logs call it."""
        return "image" if self.world.num_frames == 1 else "video"


class Objective(Section):
    """What the denoiser learns to predict, from how much noise, and how errors count.

    `shift`, `video_shift` and `beta_schedule` go into the pipeline that is saved: the first two
    are of flow models (arXiv 2403.03206, equation 23) and say how steps are spent when sampling,
    null giving videos the shift of images; the last is of epsilon and v_prediction.
    """

    type: Literal["flow", "epsilon", "v_prediction"] = "flow"
    timesteps: Timesteps = Timesteps()
    weighting: Literal["none", "min_snr"] = "none"
    min_snr_gamma: Positive = 5.0
    caption_dropout: Share = 0.1
    shift: Positive = 1.0
    video_shift: Positive | None = None
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"


class VAELoss(Section):
    """Weights of the mean absolute error, the mean squared error and the KL divergence."""

    l1: NotNegative = 1.0
    l2: NotNegative = 1.0
    kl: NotNegative = 1e-6


class Optimizer(Section):
    """AdamW, or Muon for the matrices inside repeated blocks and AdamW for all else.

    `lr` is the rate of the named optimizer, `adam_lr` that of AdamW beside Muon. Weight decay
    spares what is not a weight of a linear or convolutional layer.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: Positive = 1e-3
    adam_lr: Positive = 1e-3
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.99)
    momentum: BelowOne = 0.95
    weight_decay: NotNegative = 0.01
    grad_clip: Positive = 1.0
    warmup_steps: WholeNumber = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    schedule_by: Literal["steps", "time"] = "steps"
    final_lr_ratio: Share = 0.05


class EMA(Section):
    """Moving average of the weights; its decay grows as (1 + n) / (warmup + n) up to `decay`."""

    decay: BelowOne = 0.999
    warmup: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0


class Checkpoint(Section):
    """When the whole state is saved; 0 is never by that measure. The end is always saved."""

    every_steps: WholeNumber = 1000
    every_minutes: NotNegative = 0
    keep_last: Count = 2


class Samples(Section):
    """Pictures made while training, with the averaged weights; 0 steps between is never."""

    every_steps: WholeNumber = 0
    prompts: tuple[str, ...] = ()
    num_frames: Count = 1
    steps: Count = 30
    guidance_scale: NotNegative = 3.0
    seed: WholeNumber = 0


class Log(Section):
    """How often the mean of the loss since the last time is written."""

    every_steps: Count = 50


class Recipe(Section):
    """What the recipes of every kind share; `name` is that of the run folder too."""

    kind: str
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    seed: WholeNumber = 0
    steps: Count
    max_minutes: Positive | None = None
    data: Annotated[tuple[Stream, ...], Field(min_length=1)]
    workers: WholeNumber = 0
    optimizer: Optimizer = Optimizer()
    ema: EMA = EMA()
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["none", "blocks"] = "none"
    max_skipped_steps: WholeNumber = 5
    checkpoint: Checkpoint = Checkpoint()
    samples: Samples = Samples()
    log: Log = Log()

    @model_validator(mode="after")
    def _time_is_known(self) -> Recipe:
        if self.optimizer.schedule_by == "time" and self.max_minutes is None:
            raise ValueError("optimizer.schedule_by 'time' needs max_minutes")
        return self


class DenoiserRecipe(Recipe):
    """Trains a denoiser, and its text encoder where `text.train` says so."""

    kind: Literal["denoiser"] = "denoiser"
    model: ModelSource
    text: TextSource
    vae: str | None = None
    objective: Objective = Objective()
    gradient_checkpointing: bool = False


class VAERecipe(Recipe):
    """Trains a VAE on frames; `kind: vae`."""

    kind: Literal["vae"] = "vae"
    vae: VAESource
    loss: VAELoss = VAELoss()


KINDS: dict[str, type[DenoiserRecipe] | type[VAERecipe]] = {
    "denoiser": DenoiserRecipe,
    "vae": VAERecipe,
}


def _choose(value: str, choices: Iterable[str], kind: str) -> str:
    if value not in choices:
        raise suggest(value, choices, kind)
    return value
