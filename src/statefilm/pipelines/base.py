"""What the pipelines share: folders that hold data only, prompts as text states, final checks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import nn

from statefilm.errors import UsageError
from statefilm.models.text import encode_prompts
from statefilm.models.weights import check_complete
from statefilm.pipelines.checkpoint import check_folder
from statefilm.pipelines.inputs import batch_size, check_text

__all__ = [
    "OUTPUT_TYPES",
    "Frames",
    "LocalPipeline",
    "cat_padded",
    "check_finite",
    "noise_options",
]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Frames = list[PIL.Image.Image] | list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor


class LocalPipeline(DiffusionPipeline):
    """A pipeline that loads from and saves to local folders; with a `tokenizer` and `text_encoder`.

    Both may be None. What a prompt's length may be is `config.max_text_length`. What suits the
    model is in `config.default_...`; each class also has `size_steps`, `default_shift`,
    `check_inputs`, `decode` and `activation_bytes`, which the command line asks.

    Attributes:
        denoiser_name: the component that denoises.
        kinds: what calls make: "image", "video".
        takes_windows: whether calls take `window` and `overlap`, and first `frames` to go on from.
    """

    denoiser_name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    takes_windows: ClassVar[bool]

    @property
    def denoiser(self) -> ModelMixin:
        """The model that denoises."""
        return getattr(self, self.denoiser_name)

    @property
    def reads_text(self) -> bool:
        """Whether calls take prompts."""
        return self.denoiser.config.text_dim is not None

    @property
    def num_classes(self) -> int | None:
        """How many class labels calls take; None of a model without classes."""
        return self.denoiser.config.get("num_classes")

    def default_size(self, num_frames: int) -> tuple[int, int]:
        """Height and width that suit the model, of an image or of a clip."""
        return self.config.default_height, self.config.default_width

    def default_guidance(self, num_frames: int) -> float:
        """The guidance scale that suits the model, of an image or of a clip."""
        scale: float = self.config.default_guidance_scale
        return scale

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **kwargs: Any) -> Self:
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
            if cls.denoiser_name not in kwargs:
                cls._check_denoiser(Path(folder) / cls.denoiser_name)
            pipe = super().from_pretrained(folder, **kwargs)
        except (ValueError, RuntimeError, OSError, TypeError, AttributeError, KeyError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"{folder}: cannot be loaded ({reason[0]})") from error
        for name, component in pipe.components.items():
            if isinstance(component, nn.Module) and name not in kwargs:
                check_complete(component.eval(), Path(folder) / name)
        return pipe

    @classmethod
    def _check_denoiser(cls, folder: Path) -> None:
        """Refuse weights of another denoiser than that of the config, where a class can tell."""

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

    def encode_prompt(
        self, prompt: str | Sequence[str], device: torch.device | str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text states [B, S, D] and their mask [B, S]; reusable as `prompt_embeds`."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        device = device or self._execution_device
        length = self.config.max_text_length
        states, mask = encode_prompts(self.tokenizer, self.text_encoder, prompts, length, device)
        check_finite(states, "text encoding", self.text_encoder)
        return states, mask

    def _check_texts(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        guidance_scale: float,
        text_dim: int,
    ) -> None:
        has_encoder = self.text_encoder is not None and self.tokenizer is not None
        for name, text, embeds in (
            ("prompt", prompt, prompt_embeds),
            ("negative_prompt", negative_prompt, negative_prompt_embeds),
        ):
            check_text(name, text, embeds, has_encoder=has_encoder, text_dim=text_dim)
        count = batch_size(prompt, prompt_embeds)
        negatives = batch_size(negative_prompt, negative_prompt_embeds)
        if not count:
            raise UsageError("nothing to make: give prompt or prompt_embeds")
        if negatives not in (0, 1, count):
            raise UsageError(f"{negatives} negative prompts for {count}: give one, or one each")
        if guidance_scale != 1 and not negatives and not has_encoder:
            raise UsageError("without a text encoder, guidance needs negative_prompt_embeds")

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


def cat_padded(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Concatenate [B, S1, ...] and [B, S2, ...] along the batch, the shorter padded with zeros."""
    length = max(first.shape[1], second.shape[1])
    rows = []
    for tensor in (first, second):
        padding = tensor.new_zeros(len(tensor), length - tensor.shape[1], *tensor.shape[2:])
        rows.append(torch.cat([tensor, padding], dim=1))
    return torch.cat(rows)


def noise_options(scheduler: SchedulerMixin, generator: Any) -> dict[str, Any]:
    """The generator, for schedulers that add noise at each step."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    if not takes or generator is None:
        return {}
    return {"generator": generator if isinstance(generator, torch.Generator) else list(generator)}


def check_finite(tensor: torch.Tensor, stage: str, module: nn.Module) -> None:
    """Raise `FloatingPointError` that names the stage and the dtype of its module."""
    if not torch.isfinite(tensor).all():
        dtype = str(module.dtype).removeprefix("torch.")
        hint = "" if dtype == "float32" else f" in {dtype}; try float32"
        raise FloatingPointError(f"{stage} gave NaN or infinity{hint}")
