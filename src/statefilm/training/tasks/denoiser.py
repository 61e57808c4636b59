"""The task of a text-conditioned denoiser, whose text encoder may learn with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5EncoderModel
from transformers.utils import logging as transformers_logging

from statefilm.data.world import vocabulary
from statefilm.errors import UsageError, check_stepped
from statefilm.models import HTHTransformer, build, to_video
from statefilm.models.text import (
    build_text_encoder,
    build_word_tokenizer,
    encode_prompts,
    load_text_encoder,
)
from statefilm.models.vae import encode_frames, latent_shape, load_vae
from statefilm.pipelines import HTHPipeline, load_pipeline, resolve_model
from statefilm.pipelines.media import make_grid, save_mp4, save_png
from statefilm.pipelines.sampling import seed_generators
from statefilm.training.batches import Batch, Batches
from statefilm.training.objectives import Draw, Objective, build_objective
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import DenoiserRecipe, ModelSource, TextSource, Timesteps
from statefilm.training.tasks.task import Task
from statefilm.training.tasks.vae import vae_folder

__all__ = ["DenoiserTask"]

# Distinct mixers and lengths are distinct graphs of the one block class.
COMPILED_GRAPHS = 64


class DenoiserTask(Task):
    """Text-conditioned diffusion; the text encoder may learn with the denoiser."""

    output = "pipeline"

    def __init__(self, recipe: DenoiserRecipe, device: torch.device, ranks: Ranks) -> None:
        torch.manual_seed(seed_of(recipe.seed, "weights"))
        self.recipe, self.device = recipe, device
        self.transformer = _build_transformer(recipe.model).to(device)
        self.tokenizer, text_encoder = _build_text(recipe.text)
        self.text_encoder = text_encoder.to(device).requires_grad_(recipe.text.train).eval()
        self.vae = None if recipe.vae is None else load_vae(vae_folder(recipe.vae))
        if self.vae is not None:
            self.vae.to(device).requires_grad_(False)
        self.modules = nn.ModuleDict({"transformer": self.transformer})
        if recipe.text.train:
            self.modules["text_encoder"] = self.text_encoder
        if recipe.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

        self.objective = self._objective()
        self.pipeline = self._pipeline()
        frame_step = self.pipeline.size_steps[0]
        check_stepped("samples.num_frames", recipe.samples.num_frames, frame_step, offset=1)
        shapes = tuple(self._latent_shape(number) for number in range(len(recipe.data)))
        draw = _DenoiserDraw(
            self.objective, shapes, tuple(stream.timesteps for stream in recipe.data)
        )
        self.batches = Batches(recipe.seed, recipe.data, draw, ranks)
        self._text_padding = 0
        self.modules.train()

    def loss(self, batch: Batch) -> Tensor:
        with torch.set_grad_enabled(self.recipe.text.train):
            states, mask = self._encode(batch.captions)
        prediction, target = self._predict(batch, states, mask)
        return self.objective.loss(prediction, target, batch.level)

    @torch.no_grad()
    def errors(self, batch: Batch) -> Tensor:
        """Mean squared error [B] of what is predicted for each sample, unweighted."""
        prediction, target = self._predict(batch, *self._encode(batch.captions))
        return self.objective.errors(prediction, target)

    def compile(self) -> None:
        torch._dynamo.config.recompile_limit = COMPILED_GRAPHS
        kinds = self.transformer._repeated_blocks
        for module in self.transformer.modules():
            if type(module).__name__ in kinds:
                module.compile(dynamic=False)
        # Captions of one length, so that the graphs do not depend on the longest of a batch.
        self._text_padding = -(-self.recipe.text.max_length // 8) * 8

    def save(self, folder: Path) -> None:
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        self.pipeline.save_pretrained(folder)
        if bars:
            transformers_logging.enable_progress_bar()

    def sample(self, folder: Path, step: int) -> None:
        wanted = self.recipe.samples
        if not wanted.prompts:
            return
        clips = self.pipeline(
            list(wanted.prompts),
            num_frames=wanted.num_frames,
            num_inference_steps=wanted.steps,
            guidance_scale=wanted.guidance_scale,
            generator=seed_generators(wanted.seed, len(wanted.prompts)),
            return_dict=False,
        )[0]
        if wanted.num_frames == 1:
            clips = [[image] for image in clips]
        grids = [make_grid(moment) for moment in zip(*clips, strict=True)]
        if len(grids) == 1:
            save_png(grids[0], folder / f"step-{step:08d}.png", force=True)
        else:
            fps = self.pipeline.config.default_fps
            save_mp4(grids, folder / f"step-{step:08d}.mp4", fps, force=True)

    def _predict(self, batch: Batch, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction for a batch, and its target."""
        with torch.no_grad():
            clean = encode_frames(self.vae, batch.frames)
            noisy = self.objective.corrupt(clean, batch.noise, batch.level)
            target = self.objective.target(clean, batch.noise, batch.level)
        time = self.objective.timestep(batch.level)
        return self.transformer(noisy, time, states, mask).sample, target

    def _encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        length = self.recipe.text.max_length
        states, mask = encode_prompts(
            self.tokenizer, self.text_encoder, captions, length, self.device
        )
        missing = max(0, self._text_padding - states.shape[1])
        return F.pad(states, (0, 0, 0, missing)), F.pad(mask, (0, missing))

    def _objective(self) -> Objective:
        config, is_flow = self.recipe.objective, self.recipe.objective.type == "flow"
        predicts_sample = self.transformer.config.head_target == "sample"
        if predicts_sample and not is_flow:
            raise UsageError(
                f"objective.type {config.type!r} needs a model with head_target 'velocity', "
                "this one has 'sample'"
            )
        return build_objective(config, predicts_sample)

    def _pipeline(self) -> HTHPipeline:
        recipe = self.recipe
        text_dim, states = self.transformer.config.text_dim, self.text_encoder.config.d_model
        if text_dim != states:
            raise UsageError(f"the model reads text of width {text_dim}, the encoder has {states}")
        size = recipe.data[0].world.size
        clips = [stream.world.num_frames for stream in recipe.data]
        longest = {"default_num_frames": max(clips)} if max(clips) > 1 else {}
        pipeline = HTHPipeline(
            self.tokenizer,
            self.text_encoder,
            self.transformer,
            self.objective.scheduler(),
            self.vae,
            default_height=size,
            default_width=size,
            default_steps=recipe.samples.steps,
            default_guidance_scale=recipe.samples.guidance_scale,
            default_video_shift=recipe.objective.video_shift,
            max_text_length=recipe.text.max_length,
            **longest,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _latent_shape(self, number: int) -> tuple[int, ...]:
        """(C, t, h, w) of a stream's latents, checked against the model."""
        world = self.recipe.data[number].world
        frame_step, height_step, width_step = self.pipeline.size_steps
        check_stepped(f"data.{number}.world.num_frames", world.num_frames, frame_step, offset=1)
        check_stepped(f"data.{number}.world.size", world.size, height_step)
        check_stepped(f"data.{number}.world.size", world.size, width_step)
        shape = latent_shape(self.vae, world.num_frames, world.size, world.size)
        channels = self.transformer.config.in_channels
        if shape[0] != channels:
            raise UsageError(
                f"the model takes {channels} channels, {'the VAE' if self.vae else 'pixels'} "
                f"have {shape[0]}"
            )
        return shape


@dataclass(frozen=True)
class _DenoiserDraw:
    """`DrawNoise` of a denoiser: the shape and the noise levels are those of the stream."""

    objective: Objective
    shapes: tuple[tuple[int, ...], ...]
    timesteps: tuple[Timesteps | None, ...]

    def __call__(self, number: int, generators: list[torch.Generator]) -> Draw:
        return self.objective.draw(self.shapes[number], generators, self.timesteps[number])


def _build_transformer(source: ModelSource) -> HTHTransformer:
    if source.init_from is not None:
        transformer = load_pipeline(source.init_from, "float32", "cpu").transformer
    else:
        assert source.preset is not None
        transformer = build(source.preset, **source.overrides)
    if source.plan is not None:
        change = source.plan
        plan = to_video(transformer.config.plan, change.temporal_fraction, change.placement)
        transformer.register_to_config(plan=plan)
    return transformer


def _build_text(source: TextSource) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    if source.init_from is not None:
        folder = resolve_model(source.init_from)
        if not (folder / "model_index.json").is_file():
            return load_text_encoder(folder)
        pipeline = load_pipeline(folder, "float32", "cpu")
        return pipeline.tokenizer, pipeline.text_encoder
    assert source.preset is not None
    tokenizer = build_word_tokenizer(vocabulary(), max_length=source.max_length)
    overrides = {"vocab_size": len(tokenizer), **source.overrides}
    return tokenizer, build_text_encoder(source.preset, **overrides)
