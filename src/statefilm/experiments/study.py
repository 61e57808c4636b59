"""What a study is: a question, arms that differ in some fields of a recipe, one budget for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from statefilm.data.world.tasks import T2I_TASKS
from statefilm.models import HTHTransformer, TemporalSSMUNet, build
from statefilm.models.flops import forward_flops
from statefilm.models.plan import add_temporal
from statefilm.models.unet.cost import forward_flops as unet_flops
from statefilm.models.vae import latent_shape, load_vae
from statefilm.pipelines import resolve_model
from statefilm.pipelines.loading import vae_folder
from statefilm.training import load_recipe
from statefilm.training.recipe import DenoiserRecipe, Recipe, UNetRecipe

STEPS = 2400  # those of experiment_t2i, with which all studies of images begin
MANY_STEPS = 1_000_000  # more than any minutes allow

Changes = Mapping[str, Any]
DiffusionRecipe = DenoiserRecipe | UNetRecipe


@dataclass(frozen=True)
class Measures:
    """How each trained arm is measured.

    Attributes:
        tasks: of the image benchmark.
        images: at least so many of each task, by their size as a multiple of the trained one.
        clips: of the motion benchmark; 0 leaves it out.
        loss_samples: of the held-back samples, for each stream and each level of `LEVELS`.
        seams: whether borders of tokens show, at each size; see `evaluation.world.seams`.
    """

    tasks: tuple[str, ...] = T2I_TASKS
    images: Mapping[float, int] = field(default_factory=lambda: {1.0: 96})
    clips: int = 0
    loss_samples: int = 64
    seams: bool = False


@dataclass(frozen=True)
class ClipMeasures:
    """How each trained arm of a study of the worlds of long clips is measured.

    Attributes:
        clips: generated ones, the same noise in every arm; see `evaluation.clips`.
        steps: of the sampler, DDIM.
        loss_samples: of the held-back samples, for each level of `LEVELS`.
    """

    clips: int = 32
    steps: int = 25
    loss_samples: int = 64


@dataclass(frozen=True)
class Study:
    """Arms trained alike and compared.

    Attributes:
        name: of the command's argument and of the page.
        question: what is asked, one sentence.
        recipe: the shipped recipe that all arms change.
        arms: name to the fields that the arm changes, as "model.overrides.dim" to value.
        baseline: the arm that the others are compared with.
        steps: of the recipe as it is shipped.
        equal: what the arms have in common: "steps" (the same samples), "flops" (of the denoiser's
            forward pass, samples times operations: as many as those `steps` take), or "minutes" (of
            training on this machine, which the arms' recipes bound).
        before: the study's first stage, trained once a seed, whose weights arms start from.
        measures: how arms are judged.
        headline: the figure that the page's sentence is about.
        also: figures that it tells of, too.
    """

    name: str
    question: str
    arms: Mapping[str, Changes]
    baseline: str
    recipe: str = "experiment_t2i"
    steps: int = STEPS
    equal: Literal["steps", "flops", "minutes"] = "steps"
    before: Stage | None = None
    measures: Measures | ClipMeasures = field(default_factory=Measures)
    headline: str = "mean.strict"
    also: tuple[str, ...] = ()

    def recipe_of(self, arm: str, seed: int, source: str | None = None) -> DiffusionRecipe:
        """The recipe of an arm.

        Args:
            arm: a name of `arms`.
            seed: is the run's; the same for all arms, so that they see the same data in the same
                order from the same noise.
            source: the folder of the first stage's run, where there is one.
        """
        changes = dict(self.arms[arm])
        if source is not None and self.before is not None:
            changes |= self.before.given_to(arm, source)
        recipe = _recipe(self.recipe, changes, seed, self.steps)
        if self.equal != "flops" or not changes:
            return recipe
        shipped = _recipe(self.recipe, {}, seed, self.steps)
        share = flops_of_step(shipped) / flops_of_step(recipe)
        return _recipe(self.recipe, changes, seed, round(share * self.steps))

    def is_on_latents(self, arm: str) -> bool:
        """Whether an arm works on the latents of the first stage's VAE."""
        return self.before is not None and "vae" in self.before.given_to(arm, "")


@dataclass(frozen=True)
class Stage:
    """Training that comes before a study's arms.

    Attributes:
        fills: the fields of an arm's recipe that name the stage's run.
        arms: those that begin with it; empty is all.
    """

    recipe: str
    steps: int
    changes: Changes = field(default_factory=dict)
    fills: tuple[str, ...] = ("model.init_from", "text.init_from")
    arms: tuple[str, ...] = ()

    def recipe_for(self, seed: int) -> Recipe:
        """The stage's recipe."""
        return _load(self.recipe, self.changes, seed, self.steps)

    def given_to(self, arm: str, run: str) -> Changes:
        """What an arm's recipe takes from the stage's run."""
        return dict.fromkeys(self.fills, run) if not self.arms or arm in self.arms else {}


def flops_of_step(recipe: DiffusionRecipe) -> float:
    """Operations of the denoiser's forward pass in a step of a recipe, on average."""
    config = _denoiser_config(recipe)
    vae = None
    if isinstance(recipe, DenoiserRecipe) and recipe.vae is not None:
        vae = load_vae(vae_folder(recipe.vae))
    count = unet_flops if isinstance(recipe, UNetRecipe) else forward_flops
    text_tokens = 0 if recipe.text is None else recipe.text.max_length
    total = 0.0
    for stream in recipe.data:
        drawn = stream.drawn
        shape = latent_shape(vae, drawn.num_frames, drawn.size, drawn.size)
        flops = sum(count(config, shape[1:], text_tokens).values())
        total += stream.weight * stream.batch_size * flops
    return total / sum(stream.weight for stream in recipe.data)


def _denoiser_config(recipe: DiffusionRecipe) -> Mapping[str, Any]:
    """The config of the model that a recipe trains, made without its weights."""
    source = recipe.model
    with torch.device("meta"):
        if source.preset is not None:
            return build(source.preset, **source.overrides).config
        assert source.init_from is not None
        kind, name = (
            (TemporalSSMUNet, "unet")
            if isinstance(recipe, UNetRecipe)
            else (HTHTransformer, "transformer")
        )
        folder = resolve_model(source.init_from) / name
        config = kind.load_config(folder)
        change = getattr(source, "plan", None)
        if change is not None:
            config["plan"] = add_temporal(config["plan"], change.added)[0]
        return kind.from_config(config).config


def timed(minutes: float) -> Changes:
    """The fields of a recipe that end it after so many minutes of training."""
    return {"max_minutes": minutes, "optimizer.schedule_by": "time"}


def shortened(study: Study, share: float) -> Study:
    """The study with a share of its steps or minutes, for all stages alike."""
    before = study.before
    if before is not None:
        before = replace(before, steps=max(1, round(share * before.steps)))
    if study.equal == "minutes":
        arms = {
            name: {**changes, **timed(share * changes["max_minutes"])}
            for name, changes in study.arms.items()
        }
        return replace(study, arms=arms, before=before)
    return replace(study, steps=max(1, round(share * study.steps)), before=before)


def _recipe(base: str, changes: Changes, seed: int, steps: int) -> DiffusionRecipe:
    recipe = _load(base, changes, seed, steps)
    assert isinstance(recipe, DenoiserRecipe | UNetRecipe)
    return recipe


def _load(base: str, changes: Changes, seed: int, steps: int) -> Recipe:
    settings = {**changes, "seed": seed, "steps": steps}
    # JSON is YAML, which the changes of a recipe are written in.
    return load_recipe(base, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
