"""HTHPipeline: a prompt in, an image or a video out."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from statefilm.errors import UsageError, check_stepped
from statefilm.models import HTHTransformer
from statefilm.models.blocks import KeysValues
from statefilm.models.text import encode_prompts
from statefilm.models.vae import compression, decode_latents, latent_shape, set_tiling
from statefilm.models.weights import check_complete
from statefilm.pipelines.checkpoint import check_folder
from statefilm.pipelines.inputs import (
    batch_size,
    check_choice,
    check_guidance_scale,
    check_text,
)
from statefilm.pipelines.sampling import (
    draw_noise,
    make_scheduler,
    model_timesteps,
    own_shift,
    predicted_sample,
)

__all__ = ["HTHPipeline", "HTHPipelineOutput"]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CALLBACK_TENSORS = ("latents", "denoised", "prompt_embeds", "negative_prompt_embeds")

Frames = list[PIL.Image.Image] | list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor


@dataclass
class HTHPipelineOutput(BaseOutput):
    """What a call made, in the order prompt 0 image 0, prompt 0 image 1, ..., prompt 1 image 0.

    Attributes:
        images: for one frame: PIL images, np [B, H, W, 3], pt [B, 3, H, W]; None for a video.
        frames: lists of PIL images, np [B, T, H, W, 3], pt [B, T, 3, H, W]. Values of np and pt
            are in [0, 1]. With output_type "latent" both are the latents [B, C, t, h, w].
    """

    images: Frames | None = None
    frames: Frames | None = None


class HTHPipeline(DiffusionPipeline):
    """Text to image and text to video with a state-space denoiser (HTH, arXiv 2502.00972).

    Args:
        tokenizer, text_encoder: T5; both may be None when calls bring `prompt_embeds`.
        transformer: the denoiser.
        scheduler: says what the denoiser predicts and on which noise schedule; every call makes
            its own scheduler from this one's config.
        vae: an `AutoencoderKL*`, or None for a model of pixels.
        default_height, default_width, default_num_frames, default_steps, default_guidance_scale,
            default_fps: what suits this model; saved with it. `default_num_frames` and
            `default_fps` are for a video.
        default_video_shift: timestep shift of videos; None is the scheduler's own, as for images.
        max_text_length: tokens of a prompt that the model sees.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["text_encoder", "tokenizer", "vae"]
    _callback_tensor_inputs = list(CALLBACK_TENSORS)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: PreTrainedModel | None,
        transformer: HTHTransformer,
        scheduler: SchedulerMixin,
        vae: ModelMixin | None = None,
        default_height: int = 256,
        default_width: int = 256,
        default_num_frames: int = 17,
        default_steps: int = 30,
        default_guidance_scale: float = 3.0,
        default_fps: int = 8,
        default_video_shift: float | None = None,
        max_text_length: int = 256,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            scheduler=scheduler,
            vae=vae,
        )
        self.register_to_config(
            default_height=default_height,
            default_width=default_width,
            default_num_frames=default_num_frames,
            default_steps=default_steps,
            default_guidance_scale=default_guidance_scale,
            default_fps=default_fps,
            default_video_shift=default_video_shift,
            max_text_length=max_text_length,
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **kwargs: Any) -> HTHPipeline:
        """Load a local folder in the diffusers layout; safetensors only, nothing is fetched or run.

        Args:
            folder: holds `model_index.json` and one folder a component.
            kwargs: those of `DiffusionPipeline.from_pretrained`; a component may be given itself.

        Raises:
            FileNotFoundError: no such folder.
            UsageError: pickles or code in the folder; weights that are damaged, hold NaN or do not
                fit their config. The message names the file.
        """
        for name in ("trust_remote_code", "custom_pipeline", "use_onnx"):
            if kwargs.get(name):
                raise UsageError(f"{name} is not supported: model folders hold data only")
        check_folder(folder)
        kwargs |= {"use_safetensors": True, "local_files_only": True}
        try:
            pipe = super().from_pretrained(folder, **kwargs)
        except (ValueError, RuntimeError, OSError, TypeError, AttributeError, KeyError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"{folder}: cannot be loaded ({reason[0]})") from error
        for name, component in pipe.components.items():
            if isinstance(component, nn.Module) and name not in kwargs:
                check_complete(component.eval(), Path(folder) / name)
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the folder that `from_pretrained` reads."""
        if not kwargs.pop("safe_serialization", True):
            raise UsageError("safe_serialization=False: weights are written as safetensors only")
        super().save_pretrained(save_directory, safe_serialization=True, **kwargs)

    def register_to_config(self, **kwargs: Any) -> None:
        """Name this package's classes by their public home, so that folders outlive moved files."""
        for name, value in kwargs.items():
            if isinstance(value, tuple) and str(value[0]).startswith("statefilm."):
                kwargs[name] = ("statefilm", value[1])
        super().register_to_config(**kwargs)

    @property
    def size_steps(self) -> tuple[int, int, int]:
        """Valid sizes: frames 1 + k * steps[0], heights k * steps[1], widths k * steps[2]."""
        time, space = compression(self.vae)
        patch = self.transformer.config.patch_size
        return time * patch[0], space * patch[1], space * patch[2]

    def default_shift(self, num_frames: int) -> float | None:
        """The timestep shift for so many frames; None where the model is not one of flow."""
        own: float | None = self.config.default_video_shift if num_frames > 1 else None
        return own_shift(self.scheduler) if own is None else own

    def check_inputs(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        num_images_per_prompt: int,
        output_type: str = "pil",
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> None:
        """Raise `UsageError` naming the first bad value and what would be valid."""
        frame_step, height_step, width_step = self.size_steps
        check_stepped("height", height, height_step)
        check_stepped("width", width, width_step)
        check_stepped("num_frames", num_frames, frame_step, offset=1)
        check_stepped("num_inference_steps", num_inference_steps, 1)
        check_stepped("num_images_per_prompt", num_images_per_prompt, 1)
        check_guidance_scale(guidance_scale)
        check_choice("output_type", output_type, OUTPUT_TYPES)
        for name in callback_on_step_end_tensor_inputs:
            check_choice("callback tensor", name, CALLBACK_TENSORS)
        text = {
            "has_encoder": self.text_encoder is not None and self.tokenizer is not None,
            "text_dim": self.transformer.config.text_dim,
        }
        check_text("prompt", prompt, prompt_embeds, **text)
        check_text("negative_prompt", negative_prompt, negative_prompt_embeds, **text)
        count = batch_size(prompt, prompt_embeds)
        negatives = batch_size(negative_prompt, negative_prompt_embeds)
        if not count:
            raise UsageError("nothing to make: give prompt or prompt_embeds")
        if negatives not in (0, 1, count):
            raise UsageError(f"{negatives} negative prompts for {count}: give one, or one each")
        if guidance_scale != 1 and not negatives and not text["has_encoder"]:
            raise UsageError("without a text encoder, guidance needs negative_prompt_embeds")

    def encode_prompt(
        self, prompt: str | Sequence[str], device: torch.device | str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text states [B, S, D] and their mask [B, S]; reusable as `prompt_embeds`."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        device = device or self._execution_device
        length = self.config.max_text_length
        states, mask = encode_prompts(self.tokenizer, self.text_encoder, prompts, length, device)
        _check_finite(states, "text encoding", self.text_encoder)
        return states, mask

    def decode(self, latents: torch.Tensor, output_type: str = "pil") -> Frames:
        """Latents [B, C, t, h, w] to frames, as `HTHPipelineOutput.frames` describes them."""
        if output_type == "latent":
            return latents
        frames = decode_latents(self.vae, latents)
        if self.vae is not None:
            _check_finite(frames, "VAE decoding", self.vae)
        processor = VideoProcessor(vae_scale_factor=1)
        return processor.postprocess_video(frames.float(), output_type=output_type)

    def enable_vae_tiling(self, enabled: bool = True) -> None:
        """Encode and decode large frames in tiles, for less memory."""
        set_tiling(self.vae, enabled)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        sampler: str | None = None,
        shift: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> HTHPipelineOutput | tuple[Frames]:
        """Make images (`num_frames=1`) or videos.

        Args:
            prompt: a text or P texts; "" is the unconditional prompt.
            negative_prompt: what to steer away from, one for all or one each; "" when None.
            height, width, num_inference_steps, guidance_scale: the model's own defaults when None;
                a guidance scale of 1 turns guidance off.
            num_frames: 1, or 1 + k * `size_steps[0]`.
            num_images_per_prompt: samples of each prompt; B = P times this.
            generator: one a sample, so that each sample is the same alone and in a batch, or one
                from which the samples are drawn in turn.
            latents: start from these [B, C, t, h, w] instead of noise.
            prompt_embeds, prompt_attention_mask: [P, S, D] and [P, S], in place of `prompt`; so
                with `negative_...`.
            sampler: a name in `SAMPLERS`; None is the model's own.
            shift: above 1 spends more of the steps at high noise; None is `default_shift`.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: called as (pipe, step, timestep, tensors) after each step; latents
                and text states in the dict it returns replace those in use.
            callback_on_step_end_tensor_inputs: which tensors it gets: "latents", "denoised" (the
                clean latents that this step foresees), "prompt_embeds", "negative_prompt_embeds".

        Raises:
            UsageError: a bad value (a ValueError of one line).
            FloatingPointError: a stage gave NaN or infinity; names the stage.
        """
        config = self.config
        height = config.default_height if height is None else height
        width = config.default_width if width is None else width
        steps = config.default_steps if num_inference_steps is None else num_inference_steps
        scale = config.default_guidance_scale if guidance_scale is None else guidance_scale
        wanted = callback_on_step_end_tensor_inputs
        self.check_inputs(
            prompt,
            negative_prompt,
            height,
            width,
            num_frames,
            steps,
            scale,
            num_images_per_prompt,
            output_type,
            prompt_embeds,
            negative_prompt_embeds,
            wanted,
        )
        channels = self.transformer.config.in_channels
        shape = latent_shape(self.vae, num_frames, height, width, pixel_channels=channels)
        batch = batch_size(prompt, prompt_embeds) * num_images_per_prompt
        shift = self.default_shift(num_frames) if shift is None else shift
        scheduler = make_scheduler(self.scheduler, sampler, steps, shift)
        if latents is None:
            latents = draw_noise(shape, batch, generator)
        elif tuple(latents.shape) != (batch, *shape):
            found = tuple(latents.shape)
            raise UsageError(f"latents have shape {found}, expected {(batch, *shape)}")

        tensors = {"latents": latents.to(self._execution_device, torch.float32)}
        tensors["prompt_embeds"], mask = self._text_rows(
            prompt, prompt_embeds, prompt_attention_mask, batch
        )
        negative_mask = None
        if scale != 1:
            tensors["negative_prompt_embeds"], negative_mask = self._text_rows(
                negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask, batch
            )

        conditions = self._conditions(tensors, mask, negative_mask)
        if self.transformer.is_cache_enabled:
            self.transformer._reset_stateful_cache()
        step_options = _noise_options(scheduler, generator)
        times = model_timesteps(scheduler)
        with self.progress_bar(total=steps) as progress:
            for step, timestep in enumerate(scheduler.timesteps):
                latents = tensors["latents"]
                prediction = self._predict(latents, *conditions, times[step], scale)
                if "denoised" in wanted:
                    tensors["denoised"] = predicted_sample(scheduler, prediction, step, latents)
                latents = scheduler.step(prediction, timestep, latents, **step_options)[0]
                _check_finite(latents, f"denoising step {step + 1} of {steps}", self.transformer)
                tensors["latents"] = latents
                if callback_on_step_end is not None:
                    given = {name: tensors[name] for name in wanted if name in tensors}
                    changed = callback_on_step_end(self, step, timestep, given) or {}
                    tensors |= changed
                    if changed.keys() - {"latents", "denoised"}:
                        conditions = self._conditions(tensors, mask, negative_mask)
                progress.update()

        frames = self.decode(tensors["latents"], output_type)
        self.maybe_free_model_hooks()
        return _output(frames, num_frames, output_type, return_dict)

    def _text_rows(
        self,
        prompt: str | Sequence[str] | None,
        embeds: torch.Tensor | None,
        mask: torch.Tensor | None,
        batch: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States and mask of the prompts, or of the empty one, repeated to one row a sample."""
        device = self._execution_device
        if embeds is None:
            states, mask = self.encode_prompt(prompt or "", device)
        else:
            states = embeds.to(device)
            ones = torch.ones(states.shape[:2], dtype=torch.bool)
            mask = (ones if mask is None else mask.bool()).to(device)
        repeats = batch // len(states)
        return states.repeat_interleave(repeats, 0), mask.repeat_interleave(repeats, 0)

    def _conditions(
        self,
        tensors: dict[str, torch.Tensor],
        mask: torch.Tensor,
        negative_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor | list[KeysValues], torch.Tensor]:
        """What the denoiser reads at every step, with its mask; negative prompts come first."""
        states = tensors["prompt_embeds"]
        if negative_mask is not None:
            states = _cat_padded(tensors["negative_prompt_embeds"], states)
            mask = _cat_padded(negative_mask, mask)
        if any(p.device != states.device for p in self.transformer.parameters()):
            return states, mask  # offloaded: weights are only there inside a forward
        return self.transformer.read_text(states), mask

    def _predict(
        self,
        latents: torch.Tensor,
        text: torch.Tensor | list[KeysValues],
        mask: torch.Tensor,
        time: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """The denoiser's prediction in float32; with guidance unless the scale is 1.

        Classifier-free guidance (arXiv 2207.12598): u + scale * (c - u), both in one forward.
        """
        if scale != 1:
            latents = torch.cat([latents, latents])
        # Latents stay float32: the denoiser casts what it mixes, not what it returns.
        with self.transformer.cache_context("guided"):
            prediction = self.transformer(
                hidden_states=latents,
                timestep=time.to(latents.device).expand(len(latents)),
                encoder_hidden_states=text,
                encoder_attention_mask=mask,
            ).sample
        if scale == 1:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + scale * (conditional - unconditional)


def _cat_padded(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Concatenate [B, S1, ...] and [B, S2, ...] along the batch, the shorter padded with zeros."""
    length = max(first.shape[1], second.shape[1])
    rows = []
    for tensor in (first, second):
        padding = tensor.new_zeros(len(tensor), length - tensor.shape[1], *tensor.shape[2:])
        rows.append(torch.cat([tensor, padding], dim=1))
    return torch.cat(rows)


def _noise_options(scheduler: SchedulerMixin, generator: Any) -> dict[str, Any]:
    """The generator, for schedulers that add noise at each step."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    if not takes or generator is None:
        return {}
    return {"generator": generator if isinstance(generator, torch.Generator) else list(generator)}


def _check_finite(tensor: torch.Tensor, stage: str, module: nn.Module) -> None:
    if not torch.isfinite(tensor).all():
        dtype = str(module.dtype).removeprefix("torch.")
        hint = "" if dtype == "float32" else f" in {dtype}; try float32"
        raise FloatingPointError(f"{stage} gave NaN or infinity{hint}")


def _output(
    frames: Any, num_frames: int, output_type: str, return_dict: bool
) -> HTHPipelineOutput | tuple[Frames]:
    """Name the frames, and for single frames the images."""
    images = None
    if output_type == "latent":
        images = frames
    elif num_frames == 1:
        images = [clip[0] for clip in frames] if output_type == "pil" else frames[:, 0]
    if not return_dict:
        return (frames if images is None else images,)
    return HTHPipelineOutput(images=images, frames=frames)
