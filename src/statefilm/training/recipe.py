"""The schema of recipes: what a training run is made of, every field with its default and range."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from statefilm.models import PRESETS, UNET_PRESETS
from statefilm.models.plan import PLACEMENTS
from statefilm.models.text import TEXT_PRESETS
from statefilm.models.vae import VAE_PRESETS
from statefilm.training.fields import (
    BelowOne,
    Count,
    NotNegative,
    Positive,
    Section,
    Share,
    WholeNumber,
    choose,
)
from statefilm.training.streams import Stream, Timesteps


class PlanChange(Section):
    """Which state-space blocks scan temporal-major in videos; see `models.to_video`.

    `added` is how many new temporal-major blocks are put among those of an image model, beside the
    fraction of its own that turns, for what the paper says does not work; see
    `models.transplant.grown`. A later stage that goes on with them has no `plan`.
    """

    temporal_fraction: Share = 0.4
    placement: str = "spread"
    added: WholeNumber = 0

    @field_validator("placement")
    @classmethod
    def _known(cls, value: str) -> str:
        return choose(value, PLACEMENTS, "placement")


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


class LoRA(Section):
    """Low-rank adapters beside linear layers, which stay as they are (arXiv 2106.09685).

    Where none of `targets` is named, the ends of layers' names such as "mixer.in_proj", all linear
    layers of the blocks have one. `alpha` over `rank` scales what an adapter adds; null is `rank`.
    """

    rank: Count = 16
    alpha: Count | None = None
    dropout: BelowOne = 0.0
    targets: tuple[str, ...] = ()


class ModelSource(Source):
    """The denoiser. `plan` is applied to either source; null keeps what it has.

    A preset takes from `convert_from`, a folder with a denoiser of the same width and depth such as
    a DiT, all weights that both have; see `models.transplant`.

    Of the parameters those are not trained whose names match a pattern of `freeze`, "blocks.0.*"
    for example. With `lora` none of them is, only the adapters. The saved model has them merged
    into its weights, and holds them by themselves in `lora`.
    """

    plan: PlanChange | None = None
    convert_from: str | None = None
    freeze: tuple[str, ...] = ()
    lora: LoRA | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ModelSource:
        if self.convert_from is not None and self.preset is None:
            raise ValueError("convert_from gives weights to a preset: name one, not init_from")
        if self.lora is not None and self.freeze:
            raise ValueError("lora trains adapters alone: leave freeze out")
        return self

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else choose(value, PRESETS, "preset")


class UNetSource(Source):
    """The video U-Net; its `num_classes` and `text_dim` say what it is conditioned on."""

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else choose(value, UNET_PRESETS, "preset")


class TextEncoderSource(Source):
    """The text encoder; a fresh one reads the words of the data's captions.

    Of a user's own captions these are the `vocabulary_size` most frequent ones.
    """

    max_length: Count = 32
    vocabulary_size: Count = 8192

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else choose(value, TEXT_PRESETS, "preset")


class TextSource(TextEncoderSource):
    """The text encoder of a denoiser, and whether it learns along."""

    train: bool = False


class VAESource(Source):
    """The VAE that a recipe of kind `vae` trains.

    `inflate_from` is the folder of an image VAE (`AutoencoderKL`), which becomes a causal 3-D one
    that treats images as it does; see `models.video_vae.inflate`.
    """

    inflate_from: str | None = None

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value if value is None else choose(value, VAE_PRESETS, "preset")

    @model_validator(mode="after")
    def _one_source(self) -> VAESource:
        given = [self.preset, self.init_from, self.inflate_from]
        if given.count(None) != 2:
            raise ValueError("give one of preset, init_from and inflate_from")
        if self.preset is None and self.overrides:
            raise ValueError("overrides change a preset; what a folder holds is kept as it is")
        return self


class Objective(Section):
    """What the denoiser learns to predict, from how much noise, and how errors count.

    `caption_dropout` is the share of samples whose caption and class are hidden.

    `shift`, `video_shift`, `beta_schedule` and `train_timesteps` go into the pipeline that is
    saved: the first two are of flow models (arXiv 2403.03206, equation 23) and say how steps are
    spent when sampling, null giving videos the shift of images; the others, the noise schedule and
    its number of steps, are of the other types.

    With `shift_tokens`, of flow models too, samples of n tokens are shifted by sqrt(n /
    shift_tokens) on top of that, both in training and when sampling: the more tokens show a thing,
    the more noise it takes to hide it.

    Of a flow model that predicts the clean sample, an error at noise level s weighs 1 / s**2, but
    at levels below `sigma_floor` no more than there. A high floor has the model learn what things
    look like before it learns their last details.
    """

    type: Literal["flow", "epsilon", "v_prediction", "sample"] = "flow"
    timesteps: Timesteps = Timesteps()
    weighting: Literal["none", "min_snr"] = "none"
    min_snr_gamma: Positive = 5.0
    caption_dropout: Share = 0.1
    shift: Positive = 1.0
    video_shift: Positive | None = None
    shift_tokens: Count | None = None
    sigma_floor: Annotated[float, Field(gt=0, le=1)] = 0.05
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    train_timesteps: Annotated[int, Field(ge=2)] = 1000

    @model_validator(mode="after")
    def _shifts_are_of_flow(self) -> Objective:
        if self.shift_tokens is not None and self.type != "flow":
            raise ValueError(f"shift_tokens is for type flow, not {self.type}")
        return self


class Adversary(Section):
    """A discriminator of patches that learns beside the VAE from `start_step` on.

    `weight` multiplies the VAE's loss against it, next to the factor that makes the two pull at the
    decoder's last layer alike; see `training.adversary`. `channels` and `layers` are those of
    `models.discriminator.PatchDiscriminator`.
    """

    weight: Positive = 0.5
    start_step: WholeNumber = 0
    channels: Annotated[int, Field(ge=16, multiple_of=16)] = 64
    layers: Count = 3


class VAELoss(Section):
    """Weights of the mean absolute error, the mean squared error, the KL divergence and LPIPS.

    LPIPS needs `lpips_weights`, a safetensors file; see `models.perceptual.PerceptualDistance`.
    """

    l1: NotNegative = 1.0
    l2: NotNegative = 1.0
    kl: NotNegative = 1e-6
    lpips: NotNegative = 0.0
    lpips_weights: str | None = None
    adversary: Adversary | None = None

    @model_validator(mode="after")
    def _has_weights(self) -> VAELoss:
        if self.lpips and self.lpips_weights is None:
            raise ValueError("lpips needs lpips_weights, the safetensors file of LPIPS with VGG-16")
        return self


class Optimizer(Section):
    """AdamW, or Muon for the matrices inside repeated blocks and AdamW for all else.

    `lr` is the rate of the named optimizer, `adam_lr` that of AdamW beside Muon, `text_lr` that of
    AdamW for a text encoder that learns. Weight decay spares what is not a weight of a linear or
    convolutional layer.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: Positive = 1e-3
    adam_lr: Positive = 1e-3
    text_lr: Positive = 1e-4
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
    """When the whole state is saved; 0 is never by that measure. The end is always saved.

    With `background` the run goes on while a copy of the state is written; the averaged model is
    then saved at the end only.

    With `keep_best` the checkpoint of the lowest validation loss is kept beside the last ones, and
    its averaged model is saved as `best` in the run folder.
    """

    every_steps: WholeNumber = 1000
    every_minutes: NotNegative = 0
    keep_last: Count = 2
    keep_best: bool = False
    background: bool = False


class Parallel(Section):
    """How the processes that `torchrun` starts share the work: the sizes multiply to their number.

    One of `replicate` and `shard` may be null, which takes what the others leave. Each of
    `replicate` groups holds all parameters; inside a group they are cut over `shard` times
    `context` processes, if `shard` is above 1 (FSDP2; with both above 1, HSDP). `context`
    processes train on the same samples, each with a part of the tokens.
    """

    replicate: Count | None = None
    shard: Count | None = 1
    context: Count = 1
    timeout_minutes: Positive = 60

    @model_validator(mode="after")
    def _one_unknown(self) -> Parallel:
        if self.replicate is None and self.shard is None:
            raise ValueError("replicate and shard are both null: give one of them")
        return self


class Samples(Section):
    """Pictures made every so many steps and at the end, with averaged weights; 0 is never.

    Where no prompts are given, `count` captions of a user's own data take their place. A model that
    reads no text makes `count` of them, of its classes in turn where it has some.

    With `world_scores` at least so many images of each task of the checkable world, and as many
    clips of its motion class where samples are clips, are made and judged at the same steps.
    """

    every_steps: WholeNumber = 0
    prompts: tuple[str, ...] = ()
    count: Count = 4
    num_frames: Count = 1
    steps: Count = 30
    guidance_scale: NotNegative = 3.0
    seed: WholeNumber = 0
    world_scores: WholeNumber = 0


class Validation(Section):
    """The loss with averaged weights on `batches` batches of held-out data, without an adversary.

    Samples, noise, noise levels and hidden captions are functions of the seed alone, the same every
    time. The stream's `weight` has no meaning here.
    """

    data: Stream
    batches: Count = 8
    every_steps: Count = 1000


class Log(Section):
    """How often the mean of the loss since the last time is written.

    `wandb` is a project at Weights & Biases that is told too (the extra `wandb`); null is none.
    """

    every_steps: Count = 50
    wandb: Annotated[str, Field(min_length=1)] | None = None


class Recipe(Section):
    """What the recipes of every kind share; `name` is that of the run folder too.

    Each batch is passed in `accumulate` parts, one after the other, which saves memory and changes
    nothing else.
    """

    kind: str
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    seed: WholeNumber = 0
    steps: Count
    max_minutes: Positive | None = None
    data: Annotated[tuple[Stream, ...], Field(min_length=1)]
    workers: WholeNumber = 0
    optimizer: Optimizer = Optimizer()
    ema: EMA = EMA()
    accumulate: Count = 1
    parallel: Parallel = Parallel()
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["none", "blocks"] = "none"
    max_skipped_steps: WholeNumber = 5
    checkpoint: Checkpoint = Checkpoint()
    validation: Validation | None = None
    samples: Samples = Samples()
    log: Log = Log()

    @model_validator(mode="after")
    def _time_is_known(self) -> Recipe:
        if self.optimizer.schedule_by == "time" and self.max_minutes is None:
            raise ValueError("optimizer.schedule_by 'time' needs max_minutes")
        return self

    @model_validator(mode="after")
    def _best_is_known(self) -> Recipe:
        if self.checkpoint.keep_best and self.validation is None:
            raise ValueError("checkpoint.keep_best needs validation, whose loss says what is best")
        return self

    @model_validator(mode="after")
    def _reads_text(self) -> Recipe:
        if self.samples.world_scores and self.kind != "denoiser":
            raise ValueError(
                f"samples.world_scores {self.samples.world_scores} is for kind denoiser, whose "
                "models read the world's prompts: leave it out"
            )
        return self

    @property
    def streams(self) -> dict[str, Stream]:
        """All streams by their place in the recipe; that of the validation is the last."""
        streams = {f"data.{number}": stream for number, stream in enumerate(self.data)}
        if self.validation is not None:
            streams["validation.data"] = self.validation.data
        return streams


class DenoiserRecipe(Recipe):
    """Trains a denoiser, and its text encoder where `text.train` says so."""

    kind: Literal["denoiser"] = "denoiser"
    model: ModelSource
    text: TextSource
    vae: str | None = None
    objective: Objective = Objective()
    gradient_checkpointing: bool = False


class UNetRecipe(Recipe):
    """Trains a video U-Net on pixels; `kind: unet`. `text` is for one that reads text."""

    kind: Literal["unet"] = "unet"
    model: UNetSource
    text: TextSource | None = None
    objective: Objective = Objective()
    gradient_checkpointing: bool = False

    @field_validator("objective")
    @classmethod
    def _one_shift(cls, value: Objective) -> Objective:
        for name in ("video_shift", "shift_tokens"):
            if getattr(value, name) is not None:
                raise ValueError(f"objective.{name} is for models of images too: give shift")
        return value


class VAERecipe(Recipe):
    """Trains a VAE on frames; `kind: vae`."""

    kind: Literal["vae"] = "vae"
    vae: VAESource
    loss: VAELoss = VAELoss()

    @model_validator(mode="after")
    def _has_frames(self) -> VAERecipe:
        for where, stream in self.streams.items():
            if stream.latents is not None:
                raise ValueError(f"{where}.latents: a VAE learns from frames, give world or files")
        return self


class TextRecipe(Recipe):
    """Trains a text encoder on captions of the world alone; `kind: text`."""

    kind: Literal["text"] = "text"
    text: TextEncoderSource

    @model_validator(mode="after")
    def _can_be_read(self) -> TextRecipe:
        for where, stream in self.streams.items():
            if stream.world is None:
                raise ValueError(
                    f"{where}.{stream.kind}: what captions mean is known of the world's: give world"
                )
        return self


KINDS: dict[str, type[Recipe]] = {
    "denoiser": DenoiserRecipe,
    "unet": UNetRecipe,
    "vae": VAERecipe,
    "text": TextRecipe,
}
