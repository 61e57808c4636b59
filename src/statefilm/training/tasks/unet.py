"""The task of a video U-Net on pixels: of nothing, of classes, of text, or of both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from statefilm.errors import UsageError
from statefilm.models import TemporalSSMUNet, build
from statefilm.pipelines import VideoDiffusionPipeline
from statefilm.pipelines.sampling import seed_generators
from statefilm.training.batches import Batch, batches_of
from statefilm.training.objectives import build_objective
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import UNetRecipe, UNetSource
from statefilm.training.sources import Size, Source, check_sizes
from statefilm.training.tasks.diffusion import DiffusionDraw, DiffusionTask
from statefilm.training.tasks.text_states import TextStates, load_part

__all__ = ["UNetTask"]


class UNetTask(DiffusionTask):
    """Diffusion of clips in pixel space (arXiv 2403.07711), conditioned as the model's config says.

    A model with `num_classes` reads the samples' classes, one with `text_dim` their captions.
    """

    def __init__(
        self,
        recipe: UNetRecipe,
        device: torch.device,
        ranks: Ranks,
        sources: Sequence[Source],
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        torch.manual_seed(seed_of(recipe.seed, "weights"))
        self.recipe, self.device = recipe, device
        self.unet = _build_unet(recipe.model).to(device)
        self.denoiser = self.unet
        self._check(sources)
        trained = sources[: len(recipe.data)]
        self.modules = nn.ModuleDict({"unet": self.unet})
        self.text = None
        if recipe.text is not None:
            text_dim = self.unet.config.text_dim
            torch.manual_seed(seed_of(recipe.seed, "text"))
            self.text = TextStates(recipe.text, trained, text_dim, device, vocabulary)
            if recipe.text.train:
                self.modules["text_encoder"] = self.text.encoder
        if recipe.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

        self.objective = build_objective(recipe.objective, clip_sample=True)
        sizes = [size for source in trained for size in source.sizes]
        self.pipeline = self._pipeline(sizes, trained[0].class_names)
        channels = self.unet.config.in_channels
        shapes = {size: (channels, *size) for source in sources for size in source.sizes}
        draw_of = partial(DiffusionDraw.of, self.objective, shapes)
        self.batches, self.held_out = batches_of(recipe, sources, draw_of, ranks)
        self.modules.train()

    def _conditions(self, batch: Batch) -> dict[str, Tensor]:
        conditions = super()._conditions(batch)
        classes = self.unet.config.num_classes
        if classes is not None:
            conditions["class_labels"] = batch.labels.masked_fill(batch.labels < 0, classes)
        return conditions

    def _clips(self) -> Sequence[Sequence[Image]]:
        wanted, classes = self.recipe.samples, self.unet.config.num_classes
        count, conditions = wanted.count, dict[str, Any]()
        if self.text is not None:
            prompts = self._prompts(wanted)
            count, conditions["prompt"] = len(prompts), prompts
        if count == 0:
            return []
        if classes is not None:
            conditions["class_labels"] = [number % classes for number in range(count)]
        if conditions:
            conditions["guidance_scale"] = wanted.guidance_scale
        else:
            conditions["num_videos_per_prompt"] = count
        clips: Any = self.pipeline(
            num_frames=wanted.num_frames,
            num_inference_steps=wanted.steps,
            generator=seed_generators(wanted.seed, count),
            return_dict=False,
            **conditions,
        )[0]
        return clips

    def _pipeline(
        self, sizes: Sequence[Size], class_names: Sequence[str] | None
    ) -> VideoDiffusionPipeline:
        recipe, has_classes = self.recipe, self.unet.config.num_classes is not None
        _, height, width = sizes[0]
        fields: dict[str, Any] = {}
        if self.text is not None:
            fields = {
                "tokenizer": self.text.tokenizer,
                "text_encoder": self.text.encoder,
                "max_text_length": self.text.source.max_length,
            }
        if has_classes:
            fields["class_names"] = class_names
        if self.text is not None or has_classes:
            fields["default_guidance_scale"] = recipe.samples.guidance_scale
        pipeline = VideoDiffusionPipeline(
            self.unet,
            self.objective.scheduler(),
            default_height=height,
            default_width=width,
            default_num_frames=max(frames for frames, _, _ in sizes),
            default_steps=recipe.samples.steps,
            **fields,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _check(self, sources: Sequence[Source]) -> None:
        """Raise unless the model takes what the data and the text section give."""
        config = self.unet.config
        if config.in_channels != 3:
            raise UsageError(f"the model takes {config.in_channels} channels, pixels have 3")
        if (config.text_dim is None) != (self.recipe.text is None):
            raise UsageError(
                "the model reads no text: leave text out, or give model.overrides.text_dim"
                if config.text_dim is None
                else f"the model reads text of width {config.text_dim}: text is missing"
            )
        steps = (1, self.unet.size_step, self.unet.size_step)
        for (where, stream), source in zip(self.recipe.streams.items(), sources, strict=True):
            check_sizes(where, stream, source, steps)
            if config.num_classes not in (None, source.num_classes):
                found = "none" if source.num_classes is None else source.num_classes
                raise UsageError(
                    f"the model has {config.num_classes} classes, {where}.{stream.kind} has {found}"
                )


def _build_unet(source: UNetSource) -> TemporalSSMUNet:
    if source.init_from is not None:
        return load_part(source.init_from, "unet")
    assert source.preset is not None
    return build(source.preset, **source.overrides)
