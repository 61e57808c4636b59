"""VideoDiffusionPipeline: clips of any length, from noise alone or on from given first frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from statefilm.errors import UsageError, check_stepped
from statefilm.models import TemporalSSMUNet
from statefilm.models.unet.cost import activation_bytes
from statefilm.models.weights import misfit
from statefilm.pipelines.base import (
    OUTPUT_TYPES,
    Frames,
    LocalPipeline,
    cat_padded,
    check_finite,
    noise_options,
)
from statefilm.pipelines.clips import (
    Window,
    check_first_frames,
    check_windows,
    first_frames,
    frame_windows,
    hold,
    read_frames,
)
from statefilm.pipelines.inputs import batch_size, check_choice, check_guidance_scale
from statefilm.pipelines.labels import Labels, check_class_names, read_labels
from statefilm.pipelines.sampling import (
    draw_noise,
    make_scheduler,
    model_timesteps,
    own_shift,
    predicted_sample,
)

__all__ = ["VideoDiffusionPipeline", "VideoDiffusionPipelineOutput", "ddpm_scheduler"]

CALLBACK_TENSORS = ("latents", "denoised")

# A prompt, or its states and their mask.
Text = tuple[str | Sequence[str] | None, torch.Tensor | None, torch.Tensor | None]


def ddpm_scheduler(num_train_timesteps: int = 256) -> DDPMScheduler:
    """Ancestral sampling as the paper's: cosine betas, predicted noise, x0 clipped to [-1, 1].

    Args:
        num_train_timesteps: 256, and 1000 for UCF101 at 64 px (arXiv 2403.07711).
    """
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        clip_sample=True,
        timestep_spacing="trailing",
    )


@dataclass
class VideoDiffusionPipelineOutput(BaseOutput):
    """What a call made, in the order prompt 0 clip 0, prompt 0 clip 1, ..., prompt 1 clip 0.

    Attributes:
        frames: lists of PIL images, np [B, T, H, W, C], pt [B, T, C, H, W]. Values of np and pt are
            in [0, 1]. With output_type "latent" the pixels [B, C, T, H, W] as the model made them,
            in about [-1, 1].
    """

    frames: Frames


class VideoDiffusionPipeline(LocalPipeline):
    """Clips from a `TemporalSSMUNet`: from nothing, of a class or from text (arXiv 2403.07711).

    Args:
        unet: the denoiser of pixels.
        scheduler: says what the denoiser predicts and on which noise schedule; every call makes
            its own scheduler from this one's config. `ddpm_scheduler()` is the paper's.
        tokenizer, text_encoder: T5, for a U-Net that reads text; both may be None.
        default_height, default_width, default_num_frames, default_steps, default_guidance_scale,
            default_fps: what suits this model; saved with it. `default_steps` None is as many as
            the scheduler was trained with.
        max_text_length: tokens of a prompt that the model sees.
        class_names: of the labels, in order; calls then take them too.
    """

    denoiser_name: ClassVar[str] = "unet"
    kinds: ClassVar[tuple[str, ...]] = ("video",)
    takes_windows: ClassVar[bool] = True
    model_cpu_offload_seq = "text_encoder->unet"
    _optional_components = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs = list(CALLBACK_TENSORS)

    def __init__(
        self,
        unet: TemporalSSMUNet,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: PreTrainedModel | None = None,
        default_height: int = 64,
        default_width: int = 64,
        default_num_frames: int = 16,
        default_steps: int | None = None,
        default_guidance_scale: float = 1.0,
        default_fps: int = 8,
        max_text_length: int = 256,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_class_names(class_names, unet.config.num_classes)
        self.register_modules(
            unet=unet, scheduler=scheduler, tokenizer=tokenizer, text_encoder=text_encoder
        )
        if default_steps is None:
            default_steps = scheduler.config.num_train_timesteps
        self.register_to_config(
            default_height=default_height,
            default_width=default_width,
            default_num_frames=default_num_frames,
            default_steps=default_steps,
            default_guidance_scale=default_guidance_scale,
            default_fps=default_fps,
            max_text_length=max_text_length,
            class_names=None if class_names is None else list(class_names),
        )

    @classmethod
    def _check_denoiser(cls, folder: Path) -> None:
        config = TemporalSSMUNet.load_config(folder, local_files_only=True)
        with torch.device("meta"):
            unet = TemporalSSMUNet.from_config(config)
        difference = misfit(unet, folder)
        if difference is not None:
            mixer = unet.config.temporal_mixer
            raise UsageError(f"weights are not those of a U-Net with {mixer!r}: {difference}")

    @property
    def size_steps(self) -> tuple[int, int, int]:
        """Valid sizes: frames 1 + k * steps[0], heights k * steps[1], widths k * steps[2]."""
        return 1, self.unet.size_step, self.unet.size_step

    def default_shift(
        self, num_frames: int, height: int | None = None, width: int | None = None
    ) -> float | None:
        """The timestep shift; None where the model is not one of flow."""
        return own_shift(self.scheduler)

    def activation_bytes(self, num_frames: int, height: int, width: int) -> int:
        """Memory at the peak of one forward of one sample, beside the weights."""
        size = (num_frames, height, width)
        return activation_bytes(self.unet.config, size, self.unet.dtype.itemsize)

    def check_inputs(
        self,
        *,
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        class_labels: Labels = None,
        num_videos_per_prompt: int = 1,
        frames: Any = None,
        window: int | None = None,
        overlap: int | None = None,
        output_type: str = "pil",
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> None:
        """Raise `UsageError` naming the first bad value and what would be valid."""
        _, height_step, width_step = self.size_steps
        check_stepped("height", height, height_step)
        check_stepped("width", width, width_step)
        check_stepped("num_frames", num_frames, 1)
        check_stepped("num_inference_steps", num_inference_steps, 1)
        check_stepped("num_videos_per_prompt", num_videos_per_prompt, 1)
        check_windows(window, overlap)
        check_guidance_scale(guidance_scale)
        check_choice("output_type", output_type, OUTPUT_TYPES)
        for name in callback_on_step_end_tensor_inputs:
            check_choice("callback tensor", name, CALLBACK_TENSORS)

        text_dim = self.unet.config.text_dim
        if text_dim is not None:
            self._check_texts(
                prompt,
                negative_prompt,
                prompt_embeds,
                negative_prompt_embeds,
                guidance_scale,
                text_dim,
            )
        elif batch_size(prompt, prompt_embeds) or batch_size(
            negative_prompt, negative_prompt_embeds
        ):
            raise UsageError("this model reads no text: leave prompts and their states out")
        prompts, labels = batch_size(prompt, prompt_embeds), self._read_labels(class_labels)
        if prompts and labels and prompts != len(labels):
            raise UsageError(f"{len(labels)} class_labels for {prompts} prompts: give one each")
        if frames is not None:
            given = read_frames(frames, self.unet.config.in_channels)
            check_first_frames(given, prompts or len(labels) or 1, num_frames, height, width)
        if guidance_scale != 1 and not prompts and not labels:
            raise UsageError(
                f"guidance_scale {guidance_scale:g} needs a prompt or class_labels: 1 is valid "
                "without"
            )

    def decode(self, latents: torch.Tensor, output_type: str = "pil") -> Frames:
        """Pixels [B, C, T, H, W] to frames, as `VideoDiffusionPipelineOutput` describes them."""
        if output_type == "latent":
            return latents
        processor = VideoProcessor(vae_scale_factor=1)
        return processor.postprocess_video(latents.float(), output_type=output_type)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        class_labels: Labels = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        frames: Any = None,
        window: int | None = None,
        overlap: int | None = None,
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
    ) -> VideoDiffusionPipelineOutput | tuple[Frames]:
        """Make clips.

        Args:
            prompt: a text or P texts, for a model that reads text; "" is the unconditional prompt.
            negative_prompt: what to steer away from, one for all or one each; "" when None.
            class_labels: a label or P labels, by number or name, for a model of classes; None is
                "no class".
            height, width: those of `frames`, or the model's own, when None.
            num_frames: any number, also more than the model was trained on; its own when None.
            num_inference_steps: the model's own when None.
            guidance_scale: the model's own when None, and 1, no guidance, where there is nothing to
                guide by.
            num_videos_per_prompt: clips of each prompt or label; B = P times this.
            generator: one a clip, so that each clip is the same alone and in a batch, or one from
                which the clips are drawn in turn.
            latents: start from these [B, C, T, h, w] instead of noise.
            frames: first frames to go on from, of one clip or of P; in any form of the output. At
                each step they are brought to its noise level and put in their place (the
                replacement method of arXiv 2204.03458, section 3.1), and they are in the result.
            window, overlap: denoise windows of so many frames that share `overlap` of them, see
                `frame_windows`; for clips too long for one forward. None sees the clip as a whole.
            prompt_embeds, prompt_attention_mask: [P, S, D] and [P, S], in place of `prompt`; so
                with `negative_...`.
            sampler: a name in `SAMPLERS`; None is the model's own.
            shift: of the timesteps of a flow model; None is `default_shift`.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: called as (pipe, step, timestep, tensors) after each step; latents
                in the dict it returns replace those in use.
            callback_on_step_end_tensor_inputs: which tensors it gets: "latents", "denoised" (the
                clean frames that this step foresees).

        Raises:
            UsageError: a bad value (a ValueError of one line).
            FloatingPointError: a stage gave NaN or infinity; names the stage.
        """
        config, channels = self.config, self.unet.config.in_channels
        given = None if frames is None else read_frames(frames, channels)
        sizes = (config.default_height, config.default_width) if given is None else given.shape[3:]
        height = sizes[0] if height is None else height
        width = sizes[1] if width is None else width
        num_frames = config.default_num_frames if num_frames is None else num_frames
        steps = config.default_steps if num_inference_steps is None else num_inference_steps
        labels, prompts = self._read_labels(class_labels), batch_size(prompt, prompt_embeds)
        scale = guidance_scale
        if scale is None:
            scale = config.default_guidance_scale if labels or prompts else 1.0
        wanted = callback_on_step_end_tensor_inputs
        self.check_inputs(
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=steps,
            guidance_scale=scale,
            prompt=prompt,
            negative_prompt=negative_prompt,
            class_labels=class_labels,
            num_videos_per_prompt=num_videos_per_prompt,
            frames=frames,
            window=window,
            overlap=overlap,
            output_type=output_type,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            callback_on_step_end_tensor_inputs=wanted,
        )
        batch = max(1, prompts, len(labels)) * num_videos_per_prompt
        shape = (channels, num_frames, height, width)
        scheduler = make_scheduler(self.scheduler, sampler, steps, shift)
        if latents is None:
            latents = draw_noise(shape, batch, generator)
        elif tuple(latents.shape) != (batch, *shape):
            found = tuple(latents.shape)
            raise UsageError(f"latents have shape {found}, expected {(batch, *shape)}")
        noise = latents.to(self._execution_device, torch.float32)
        clean = first_frames(given, noise)
        conditions = self._conditions(
            labels,
            (prompt, prompt_embeds, prompt_attention_mask),
            (negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask),
            batch,
            guided=scale != 1,
        )

        windows = frame_windows(num_frames, window, overlap)
        step_options = noise_options(scheduler, generator)
        times = model_timesteps(scheduler)
        latents = hold(scheduler, noise, clean, noise, 0)
        with self.progress_bar(total=steps * len(windows)) as progress:
            for step, timestep in enumerate(scheduler.timesteps):
                prediction = self._predict(
                    latents, times[step], conditions, scale, windows, progress.update
                )
                tensors = {}
                if "denoised" in wanted:
                    foreseen = predicted_sample(scheduler, prediction, step, latents)
                    tensors["denoised"] = hold(scheduler, foreseen, clean, noise, steps)
                latents = scheduler.step(prediction, timestep, latents, **step_options)[0]
                check_finite(latents, f"denoising step {step + 1} of {steps}", self.unet)
                latents = hold(scheduler, latents, clean, noise, step + 1)
                if callback_on_step_end is not None:
                    tensors["latents"] = latents
                    shown = {name: tensors[name] for name in wanted}
                    changed = callback_on_step_end(self, step, timestep, shown) or {}
                    latents = changed.get("latents", latents)

        made = self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return VideoDiffusionPipelineOutput(frames=made) if return_dict else (made,)

    def _read_labels(self, labels: Labels) -> list[int]:
        """Class labels as a list, empty where none are given."""
        return read_labels(labels, self.num_classes, self.config.class_names)

    def _conditions(
        self, labels: list[int], text: Text, negative_text: Text, batch: int, *, guided: bool
    ) -> dict[str, torch.Tensor]:
        """What the U-Net reads beside frames and time; with guidance, the negative rows first."""
        conditions: dict[str, torch.Tensor] = {}
        classes = self.unet.config.num_classes
        if classes is not None:
            rows = torch.tensor(labels or [classes], device=self._execution_device)
            rows = rows.repeat_interleave(batch // len(rows))
            conditions["class_labels"] = (
                torch.cat([torch.full_like(rows, classes), rows]) if guided else rows
            )
        if self.unet.config.text_dim is not None:
            states, mask = self._text_rows(*text, batch)
            if guided:
                negative_states, negative_mask = self._text_rows(*negative_text, batch)
                states = cat_padded(negative_states, states)
                mask = cat_padded(negative_mask, mask)
            conditions |= {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        return conditions

    def _predict(
        self,
        latents: torch.Tensor,
        time: torch.Tensor,
        conditions: dict[str, torch.Tensor],
        scale: float,
        windows: Sequence[Window],
        advance: Callable[[], Any],
    ) -> torch.Tensor:
        """The prediction for the whole clip, in float32, from windows one after the other.

        `advance` is called after each of them.
        Classifier-free guidance (arXiv 2207.12598): u + scale * (c - u), both in one forward.
        """
        total = torch.zeros_like(latents)
        for frames, share in windows:
            part = latents[:, :, frames]
            part = part if scale == 1 else torch.cat([part, part])
            timestep = time.to(part.device).expand(len(part))
            # Latents stay float32: the U-Net casts what it mixes, not what it returns.
            prediction = self.unet(part, timestep, **conditions).sample
            if scale != 1:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + scale * (conditional - unconditional)
            total[:, :, frames] += share.to(total.device)[:, None, None] * prediction
            advance()
        return total
