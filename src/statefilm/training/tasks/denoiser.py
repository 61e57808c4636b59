"""The task of a text-conditioned denoiser, whose text encoder may learn with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from PIL.Image import Image
from torch import nn

from statefilm.errors import UsageError, check_stepped
from statefilm.models import HTHTransformer, build, to_video
from statefilm.models.transplant import grown, transplant
from statefilm.models.vae import latent_shape, load_vae
from statefilm.pipelines import HTHPipeline
from statefilm.pipelines.loading import vae_folder
from statefilm.pipelines.sampling import seed_generators
from statefilm.training import adapters
from statefilm.training.batches import batches_of
from statefilm.training.objectives import Objective, build_objective
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import DenoiserRecipe, ModelSource
from statefilm.training.sources import Size, Source, check_sizes
from statefilm.training.tasks.diffusion import DiffusionDraw, DiffusionTask
from statefilm.training.tasks.text_states import TextStates, load_part

__all__ = ["DenoiserTask", "build_transformer"]

logger = logging.getLogger(__name__)


class DenoiserTask(DiffusionTask):
    """Text-conditioned diffusion; the text encoder may learn with the denoiser."""

    text: TextStates

    def __init__(
        self,
        recipe: DenoiserRecipe,
        device: torch.device,
        ranks: Ranks,
        sources: Sequence[Source],
        vae: ModelMixin | None = None,
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        torch.manual_seed(seed_of(recipe.seed, "weights"))
        self.recipe, self.device = recipe, device
        self.transformer = build_transformer(recipe.model).to(device)
        self.denoiser = self.transformer
        trained, text_dim = sources[: len(recipe.data)], self.transformer.config.text_dim
        torch.manual_seed(seed_of(recipe.seed, "text"))  # the same beside any denoiser
        self.text = TextStates(recipe.text, trained, text_dim, device, vocabulary)
        self.vae = vae
        if vae is None and recipe.vae is not None:
            self.vae = load_vae(vae_folder(recipe.vae))
        if self.vae is not None:
            self.vae.to(device).requires_grad_(False)
        self.modules = nn.ModuleDict({"transformer": self.transformer})
        if recipe.text.train:
            self.modules["text_encoder"] = self.text.encoder
        if recipe.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

        self.objective = self._objective()
        fps = next((source.fps for source in trained if source.fps is not None), None)
        self.pipeline = self._pipeline([size for one in trained for size in one.sizes], fps)
        frame_step = self.pipeline.size_steps[0]
        check_stepped("samples.num_frames", recipe.samples.num_frames, frame_step, offset=1)
        for (where, stream), source in zip(recipe.streams.items(), sources, strict=True):
            check_sizes(where, stream, source, self.pipeline.size_steps)
        shapes = {size: self._latent_shape(size) for one in sources for size in one.sizes}
        shifts = {size: self.pipeline.token_shift(*size) for size in shapes}
        draw_of = partial(DiffusionDraw.of, self.objective, shapes, shifts=shifts)
        self.batches, self.held_out = batches_of(recipe, sources, draw_of, ranks)
        self.modules.train()

    def save(self, folder: Path) -> None:
        if self.recipe.model.lora is None:
            return super().save(folder)
        with adapters.plain(self.pipeline):
            super().save(folder)
        adapters.save_lora(self.transformer, folder / "lora")

    def _clips(self) -> Sequence[Sequence[Image]]:
        wanted = self.recipe.samples
        prompts = self._prompts(wanted)
        if not prompts:
            return []
        clips: Any = self.pipeline(
            prompts,
            num_frames=wanted.num_frames,
            num_inference_steps=wanted.steps,
            guidance_scale=wanted.guidance_scale,
            generator=seed_generators(wanted.seed, len(prompts)),
            return_dict=False,
        )[0]
        return [[image] for image in clips] if wanted.num_frames == 1 else clips

    def _objective(self) -> Objective:
        config, is_flow = self.recipe.objective, self.recipe.objective.type == "flow"
        predicts_sample = self.transformer.config.head_target == "sample"
        if predicts_sample and not is_flow:
            raise UsageError(
                f"objective.type {config.type!r} needs a model with head_target 'velocity', "
                "this one has 'sample'"
            )
        return build_objective(config, predicts_sample, clip_sample=self.vae is None)

    def _pipeline(self, sizes: Sequence[Size], fps: float | None) -> HTHPipeline:
        recipe = self.recipe
        clips = [size for size in sizes if size[0] > 1]
        images = [size for size in sizes if size[0] == 1]
        _, height, width = (clips or images)[0]
        own: dict[str, Any] = {}
        if clips:
            own["default_num_frames"] = max(frames for frames, _, _ in clips)
        if images and images[0][1:] != (height, width):
            own["default_image_size"] = images[0][1:]
        if fps is not None:
            own["default_fps"] = round(fps)
        pipeline = HTHPipeline(
            self.text.tokenizer,
            self.text.encoder,
            self.transformer,
            self.objective.scheduler(),
            self.vae,
            default_height=height,
            default_width=width,
            default_steps=recipe.samples.steps,
            default_guidance_scale=recipe.samples.guidance_scale,
            default_video_shift=recipe.objective.video_shift,
            shift_tokens=recipe.objective.shift_tokens,
            max_text_length=recipe.text.max_length,
            **own,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _latent_shape(self, size: Size) -> tuple[int, ...]:
        """(C, t, h, w) of the latents of frames, checked against the model."""
        shape = latent_shape(self.vae, *size)
        channels = self.transformer.config.in_channels
        if shape[0] != channels:
            given = "latents of the VAE" if self.vae else "pixels"
            raise UsageError(
                f"the model takes {channels} channels, {given} have {shape[0]}: "
                f"model.overrides.in_channels={shape[0]} fits"
            )
        return shape


def build_transformer(source: ModelSource) -> HTHTransformer:
    """The denoiser of a recipe's section, with what is not to be trained frozen.

    Raises:
        UsageError: the section names what is not there or does not fit.
    """
    if source.init_from is not None:
        transformer = load_part(source.init_from, "transformer")
    else:
        assert source.preset is not None
        transformer = build(source.preset, **source.overrides)
    if source.convert_from is not None:
        _convert(source.convert_from, transformer)
    if source.plan is not None:
        change, before = source.plan, transformer.config.plan
        if change.added and any(one["video_scan"] != one["image_scan"] for one in before):
            raise UsageError(
                f"model.plan.added {change.added} is for image models, and this one scans along "
                "time: leave it out"
            )
        plan = to_video(before, change.temporal_fraction, change.placement)
        transformer.register_to_config(plan=plan)
        if change.added:
            transformer = grown(transformer, change.added)
    adapters.freeze(transformer, source.freeze)
    if source.lora is not None:
        adapters.add_lora(transformer, source.lora)
    return transformer


def _convert(folder: str, transformer: HTHTransformer) -> None:
    fresh = transplant(load_part(folder, "transformer"), transformer)
    kinds = sorted({re.sub(r"^blocks\.\d+\.", "", name) for name in fresh})
    logger.info("convert_from %s: fresh stay %s", folder, ", ".join(kinds) or "no weights")
