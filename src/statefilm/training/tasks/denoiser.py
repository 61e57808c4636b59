"""The task of a text-conditioned denoiser, whose text encoder may learn with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from statefilm.errors import UsageError, check_stepped
from statefilm.models import HTHTransformer, build, to_video
from statefilm.models.vae import latent_shape, load_vae
from statefilm.pipelines import HTHPipeline
from statefilm.pipelines.sampling import seed_generators
from statefilm.training.batches import Batches
from statefilm.training.objectives import Objective, build_objective
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import DenoiserRecipe, ModelSource
from statefilm.training.sources import Size, check_sizes, open_sources
from statefilm.training.tasks.diffusion import DiffusionDraw, DiffusionTask, TextStates, load_part
from statefilm.training.tasks.vae import vae_folder

__all__ = ["DenoiserTask"]


class DenoiserTask(DiffusionTask):
    """Text-conditioned diffusion; the text encoder may learn with the denoiser."""

    text: TextStates

    def __init__(
        self,
        recipe: DenoiserRecipe,
        device: torch.device,
        ranks: Ranks,
        quarantine: Path | None = None,
    ) -> None:
        torch.manual_seed(seed_of(recipe.seed, "weights"))
        self.recipe, self.device = recipe, device
        self.transformer = _build_transformer(recipe.model).to(device)
        self.denoiser = self.transformer
        sources = open_sources(recipe.seed, recipe.data, quarantine)
        text_dim = self.transformer.config.text_dim
        self.text = TextStates(recipe.text, sources, text_dim, device)
        self.vae = None if recipe.vae is None else load_vae(vae_folder(recipe.vae))
        if self.vae is not None:
            self.vae.to(device).requires_grad_(False)
        self.modules = nn.ModuleDict({"transformer": self.transformer})
        if recipe.text.train:
            self.modules["text_encoder"] = self.text.encoder
        if recipe.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

        self.objective = self._objective()
        sizes = [size for source in sources for size in source.sizes]
        self.pipeline = self._pipeline(sizes)
        frame_step = self.pipeline.size_steps[0]
        check_stepped("samples.num_frames", recipe.samples.num_frames, frame_step, offset=1)
        check_sizes(recipe.data, sources, self.pipeline.size_steps)
        shapes = {size: self._latent_shape(size) for size in sizes}
        draw = DiffusionDraw.of(self.objective, shapes, recipe.data)
        self.batches = Batches(recipe.seed, recipe.data, draw, ranks, sources)
        self.modules.train()

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

    def _pipeline(self, sizes: Sequence[Size]) -> HTHPipeline:
        recipe = self.recipe
        _, height, width = sizes[0]
        most = max(frames for frames, _, _ in sizes)
        longest = {"default_num_frames": most} if most > 1 else {}
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
            max_text_length=recipe.text.max_length,
            **longest,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _latent_shape(self, size: Size) -> tuple[int, ...]:
        """(C, t, h, w) of the latents of frames, checked against the model."""
        shape = latent_shape(self.vae, *size)
        channels = self.transformer.config.in_channels
        if shape[0] != channels:
            raise UsageError(
                f"the model takes {channels} channels, {'the VAE' if self.vae else 'pixels'} "
                f"have {shape[0]}"
            )
        return shape


def _build_transformer(source: ModelSource) -> HTHTransformer:
    if source.init_from is not None:
        transformer = load_part(source.init_from, "transformer")
    else:
        assert source.preset is not None
        transformer = build(source.preset, **source.overrides)
    if source.plan is not None:
        change = source.plan
        plan = to_video(transformer.config.plan, change.temporal_fraction, change.placement)
        transformer.register_to_config(plan=plan)
    return transformer
