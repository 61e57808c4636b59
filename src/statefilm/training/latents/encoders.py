"""The encoders of a worker: a VAE and a text encoder, from their folders, with their hashes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ModelMixin
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from statefilm.data.latents import Encoding, key_of
from statefilm.data.latents.store import digest_of
from statefilm.errors import UsageError
from statefilm.models.text import encode_prompts, load_text_encoder
from statefilm.models.vae import encode_posterior, latent_shape, load_vae
from statefilm.pipelines.loading import pick_device

__all__ = ["DTYPES", "EncoderSpec", "Encoders", "text_width"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """What a worker needs to make its encoders; goes to other processes and machines.

    Attributes:
        vae: a folder of diffusers; None keeps frames as they are.
        text: a folder of a tokenizer and a text encoder; None encodes no text.
        max_length: tokens kept of a caption.
        precision: "float32" or "bfloat16", to compute in.
        dtype: "float32" or "bfloat16", to store.
        posterior: store the spread of the VAE's code beside its mean.
        device: where the encoders run; several workers share out the GPUs of "cuda".
    """

    vae: Path | None = None
    text: Path | None = None
    max_length: int = 32
    precision: str = "float32"
    dtype: str = "bfloat16"
    posterior: bool = False
    device: str = "auto"

    def encoding(self) -> Encoding:
        """What the results depend on: hashes in place of folders."""
        return Encoding(
            vae=None if self.vae is None else _hash(self.vae),
            text=None if self.text is None else _hash(*_text_folders(self.text)),
            max_length=self.max_length,
            precision=self.precision,
            dtype=self.dtype,
            posterior=self.posterior and self.vae is not None,
        )


class Encoders:
    """A VAE and a text encoder on a device; each is loaded when it is first asked for.

    Args:
        number: of the worker, to choose a GPU by.
    """

    def __init__(self, spec: EncoderSpec, number: int = 0) -> None:
        self.spec, self.device = spec, pick_device(spec.device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", number % torch.cuda.device_count())
        self._vae: ModelMixin | None = None
        self._text: tuple[PreTrainedTokenizerBase, T5EncoderModel] | None = None

    @property
    def vae(self) -> ModelMixin | None:
        """The VAE; None if there is none."""
        if self._vae is None and self.spec.vae is not None:
            self._vae = load_vae(self.spec.vae).to(self.device).requires_grad_(False)
        return self._vae

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """Shape (C, t, h, w) of the latents; UsageError where the VAE does not take the size."""
        return latent_shape(self.vae, num_frames, height, width)

    @torch.no_grad()
    def latents(self, frames: Tensor) -> dict[str, Tensor]:
        """What is stored of frames [B, 3, T, H, W] in [-1, 1]: `mean` and `logvar`."""
        with self._precision():
            mean, logvar = encode_posterior(self.vae, frames.to(self.device))
        found = {"mean": mean}
        if self.spec.posterior and logvar is not None:
            found["logvar"] = logvar
        return {name: self._stored(tensor) for name, tensor in found.items()}

    @torch.no_grad()
    def states(self, captions: Sequence[str]) -> list[Tensor]:
        """The text states [tokens, D] of each caption, without padding."""
        assert self.spec.text is not None
        if self._text is None:
            dtype = DTYPES[self.spec.precision]
            tokenizer, encoder = load_text_encoder(self.spec.text, dtype=dtype)
            self._text = tokenizer, encoder.to(self.device)
        tokenizer, encoder = self._text
        states, mask = encode_prompts(tokenizer, encoder, captions, self.spec.max_length)
        rows = zip(self._stored(states), mask.sum(1).tolist(), strict=True)
        return [row[:length].clone() for row, length in rows]

    def _precision(self) -> torch.autocast:
        wanted = self.spec.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def _stored(self, tensor: Tensor) -> Tensor:
        return tensor.to("cpu", DTYPES[self.spec.dtype])


def text_width(folder: Path) -> int:
    """D of the states of a text encoder, from its config.

    Raises:
        UsageError: there is no such config.
    """
    file = _text_folders(folder)[-1] / "config.json"
    try:
        return int(json.loads(file.read_text("utf-8"))["d_model"])
    except (OSError, ValueError, TypeError, KeyError):
        raise UsageError(f"{file}: not the config of a T5 encoder") from None


def _hash(*folders: Path) -> str:
    """Of the names and bytes of a model's files: JSON, vocabularies and safetensors."""
    kinds = {".json", ".model", ".safetensors", ".txt"}
    return key_of(
        *(
            (file.relative_to(folder).as_posix(), digest_of(file))
            for folder in folders
            for file in sorted(folder.rglob("*"))
            if file.suffix in kinds
        )
    )


def _text_folders(folder: Path) -> list[Path]:
    """Where tokenizer and encoder lie, as `load_text_encoder` finds them."""
    nested = [folder / "tokenizer", folder / "text_encoder"]
    return nested if nested[1].is_dir() else [folder]
