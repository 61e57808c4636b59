"""HTHPipeline: a prompt in, an image or a video out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from statefilm.errors import UsageError, check_stepped
from statefilm.models import HTHTransformer
from statefilm.models.flops import activation_bytes
from statefilm.models.sequence import ReadText
from statefilm.models.vae import compression, decode_latents, latent_shape, set_tiling
from statefilm.pipelines.base import (
    OUTPUT_TYPES,
    Frames,
    LocalPipeline,
    cat_padded,
    check_finite,
    noise_options,
)
from statefilm.pipelines.inputs import batch_size, check_choice, check_guidance_scale
from statefilm.pipelines.sampling import (
    draw_noise,
    make_scheduler,
    model_timesteps,
    own_shift,
    predicted_sample,
)

__all__ = ["HTHPipeline", "HTHPipelineOutput"]

# From so many tokens a sample, on a CPU, guidance takes two forwards: the arrays of a single one
# are so large that the C library asks the system for each anew, see
# benchmarks/cpu_studies.py --parts guidance-batching.
APART_TOKENS = 1024

CALLBACK_TENSORS = ("latents", "denoised", "prompt_embeds", "negative_prompt_embeds")


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


class HTHPipeline(LocalPipeline):
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
        default_image_size: height and width of an image, where they are not those of a clip.
        default_video_guidance_scale: the guidance scale of videos, where it is not that of images.
        default_video_shift: timestep shift of videos; None is the scheduler's own, as for images.
        shift_tokens: the number of tokens at which the scheduler's own shift holds; that of n
            tokens is sqrt(n / shift_tokens) times as large. None leaves it as it is.
        max_text_length: tokens of a prompt that the model sees.
    """

    denoiser_name: ClassVar[str] = "transformer"
    kinds: ClassVar[tuple[str, ...]] = ("image", "video")
    takes_windows: ClassVar[bool] = False
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
        default_image_size: tuple[int, int] | None = None,
        default_video_guidance_scale: float | None = None,
        default_video_shift: float | None = None,
        shift_tokens: int | None = None,
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
            default_image_size=default_image_size,
            default_video_guidance_scale=default_video_guidance_scale,
            default_video_shift=default_video_shift,
            shift_tokens=shift_tokens,
            max_text_length=max_text_length,
        )

    @property
    def size_steps(self) -> tuple[int, int, int]:
        """Valid sizes: frames 1 + k * steps[0], heights k * steps[1], widths k * steps[2]."""
        time, space = compression(self.vae)
        patch = self.transformer.config.patch_size
        return time * patch[0], space * patch[1], space * patch[2]

    def default_size(self, num_frames: int) -> tuple[int, int]:
        image = self.config.default_image_size if num_frames == 1 else None
        return tuple(image) if image else super().default_size(num_frames)

    def default_guidance(self, num_frames: int) -> float:
        video: float | None = self.config.default_video_guidance_scale if num_frames > 1 else None
        return super().default_guidance(num_frames) if video is None else video

    def default_shift(
        self, num_frames: int, height: int | None = None, width: int | None = None
    ) -> float | None:
        """The timestep shift for such a size; None where the model is not one of flow."""
        video: float | None = self.config.default_video_shift if num_frames > 1 else None
        shift = own_shift(self.scheduler) if video is None else video
        if shift is None:
            return None
        own = self.default_size(num_frames)
        height, width = height or own[0], width or own[1]
        return shift * self.token_shift(num_frames, height, width)

    def token_shift(self, num_frames: int, height: int, width: int) -> float:
        """What the number of tokens of a size multiplies its shift by; see `shift_tokens`."""
        if self.config.shift_tokens is None:
            return 1.0
        tokens = max(1, self.num_tokens(num_frames, height, width))
        return math.sqrt(tokens / self.config.shift_tokens)

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """How many tokens the denoiser mixes for one sample of a valid size."""
        time, rows, columns = self.size_steps
        return (1 + (num_frames - 1) // time) * (height // rows) * (width // columns)

    def activation_bytes(self, num_frames: int, height: int, width: int) -> int:
        """Memory at the peak of one forward of one sample, beside the weights."""
        _, *latents = latent_shape(self.vae, num_frames, height, width)
        size = (latents[0], latents[1], latents[2])
        return activation_bytes(self.transformer.config, size, self.transformer.dtype.itemsize)

    def check_inputs(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        num_images_per_prompt: int = 1,
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
        text_dim = self.transformer.config.text_dim
        self._check_texts(
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            guidance_scale,
            text_dim,
        )

    def decode(self, latents: torch.Tensor, output_type: str = "pil") -> Frames:
        """Latents [B, C, t, h, w] to frames, as `HTHPipelineOutput.frames` describes them."""
        if output_type == "latent":
            return latents
        frames = decode_latents(self.vae, latents)
        if self.vae is not None:
            check_finite(frames, "VAE decoding", self.vae)
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
        own = self.default_size(num_frames)
        height, width = own[0] if height is None else height, own[1] if width is None else width
        steps = config.default_steps if num_inference_steps is None else num_inference_steps
        scale = self.default_guidance(num_frames) if guidance_scale is None else guidance_scale
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
        shift = self.default_shift(num_frames, height, width) if shift is None else shift
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

        apart = (
            self._execution_device.type == "cpu"
            and self.num_tokens(num_frames, height, width) >= APART_TOKENS
        )
        conditions = self._conditions(tensors, mask, negative_mask, apart)
        if self.transformer.is_cache_enabled:
            self.transformer._reset_stateful_cache()
        step_options = noise_options(scheduler, generator)
        times = model_timesteps(scheduler)
        with self.progress_bar(total=steps) as progress:
            for step, timestep in enumerate(scheduler.timesteps):
                latents = tensors["latents"]
                prediction = self._predict(latents, conditions, times[step], scale)
                if "denoised" in wanted:
                    tensors["denoised"] = predicted_sample(scheduler, prediction, step, latents)
                latents = scheduler.step(prediction, timestep, latents, **step_options)[0]
                check_finite(latents, f"denoising step {step + 1} of {steps}", self.transformer)
                tensors["latents"] = latents
                if callback_on_step_end is not None:
                    given = {name: tensors[name] for name in wanted if name in tensors}
                    changed = callback_on_step_end(self, step, timestep, given) or {}
                    tensors |= changed
                    if changed.keys() - {"latents", "denoised"}:
                        conditions = self._conditions(tensors, mask, negative_mask, apart)
                progress.update()

        frames = self.decode(tensors["latents"], output_type)
        self.maybe_free_model_hooks()
        return _output(frames, num_frames, output_type, return_dict)

    def _conditions(
        self,
        tensors: dict[str, torch.Tensor],
        mask: torch.Tensor,
        negative_mask: torch.Tensor | None,
        apart: bool,
    ) -> dict[str, tuple[torch.Tensor | ReadText, torch.Tensor]]:
        """What the denoiser reads in each forward of a step, with its mask, negative prompts first.

        Args:
            apart: negative prompts have a forward of their own.
        """
        states = tensors["prompt_embeds"]
        forwards: dict[str, tuple[torch.Tensor | ReadText, torch.Tensor]]
        forwards = {"guided": (states, mask)}
        if negative_mask is not None:
            negative = tensors["negative_prompt_embeds"]
            if apart:
                forwards = {"negative": (negative, negative_mask), **forwards}
            else:
                both = cat_padded(negative, states), cat_padded(negative_mask, mask)
                forwards = {"guided": both}
        if any(p.device != states.device for p in self.transformer.parameters()):
            return forwards  # offloaded: weights are only there inside a forward
        read = self.transformer.read_text
        return {name: (read(text), mask) for name, (text, mask) in forwards.items()}

    def _predict(
        self,
        latents: torch.Tensor,
        conditions: dict[str, tuple[torch.Tensor | ReadText, torch.Tensor]],
        time: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """The denoiser's prediction in float32; with guidance unless the scale is 1.

        Classifier-free guidance (arXiv 2207.12598): u + scale * (c - u).
        """
        predictions = []
        for name, (text, mask) in conditions.items():
            # Latents stay float32: the denoiser casts what it mixes, not what it returns.
            rows = latents.repeat(len(mask) // len(latents), *[1] * (latents.dim() - 1))
            with self.transformer.cache_context(name):
                prediction = self.transformer(
                    hidden_states=rows,
                    timestep=time.to(rows.device).expand(len(rows)),
                    encoder_hidden_states=text,
                    encoder_attention_mask=mask,
                ).sample
            predictions.append(prediction)
        prediction = torch.cat(predictions)
        if scale == 1:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + scale * (conditional - unconditional)


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
