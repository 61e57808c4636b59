"""VAE wiring: diffusers' AutoencoderKL* between frames in [-1, 1] and normalised latents."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderKLMagvit, ModelMixin

from statefilm.errors import UsageError, check_stepped, suggest
from statefilm.models.video_vae import AutoencoderKLVideo, block_types
from statefilm.models.weights import check_weights

__all__ = [
    "VAE_PRESETS",
    "build_vae",
    "compression",
    "decode_latents",
    "encode_frames",
    "encode_posterior",
    "find_vae_class",
    "latent_shape",
    "load_vae",
    "set_tiling",
]

# A causal 3-D VAE in the manner of MAGVIT-v2 (arXiv 2310.05737): the first frame stands alone, so
# one set of weights takes images and clips of 1 + k * t frames.
VAE_PRESETS: dict[str, dict[str, Any]] = {
    # 8 x 8 in space, 4 in time, 16 channels.
    "magvit": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    # 4 x 4 in space, 2 in time, 8 channels. Widths stay multiples of 32 because bfloat16 1x1x1
    # convolutions of other widths can crash in the backward pass on a CPU. The norm's groups are
    # wide: a group of one or two channels would take the colour out of a plain surface.
    "world_vae": {
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 1,
        "latent_channels": 8,
        "norm_num_groups": 4,
        "scaling_factor": 1.0,
    },
}


def build_vae(preset: str, **overrides: Any) -> AutoencoderKLMagvit:
    """A freshly initialised VAE.

    Args:
        preset: a name in `VAE_PRESETS`.
        overrides: arguments of `diffusers.AutoencoderKLMagvit` that replace the preset's. The
            block types follow from `block_out_channels`: n entries halve space n - 1 times and
            time n - 2 times.

    Raises:
        UsageError: unknown preset or field.
    """
    if preset not in VAE_PRESETS:
        raise suggest(preset, VAE_PRESETS, "VAE preset")
    known = [name for name in signature(AutoencoderKLMagvit.__init__).parameters if name != "self"]
    for field in overrides:
        if field not in known:
            raise suggest(field, known, "VAE field")
    fields = {**VAE_PRESETS[preset], **overrides}
    return AutoencoderKLMagvit(**{**block_types(len(fields["block_out_channels"])), **fields})


def load_vae(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> ModelMixin:
    """Any `AutoencoderKL*` of diffusers from a local folder of safetensors; nothing is fetched.

    Raises:
        FileNotFoundError: no `config.json` in the folder.
        UsageError: the config is damaged or names another class, or the weights are damaged or
            hold NaN.
    """
    config_file = Path(folder) / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"VAE folder without config.json: {folder}")
    try:
        config = json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{config_file}: damaged JSON ({error})") from None
    name = str(config.get("_class_name")) if isinstance(config, dict) else ""
    vae_class = find_vae_class(name)
    if vae_class is None:
        raise UsageError(f"{config_file} names class {name!r}, expected an AutoencoderKL*")
    check_weights(Path(folder))
    vae = vae_class.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return vae.eval()


def find_vae_class(name: str) -> type[ModelMixin] | None:
    """The class that a VAE's config names: ours or an `AutoencoderKL*` of diffusers; else None."""
    if name == AutoencoderKLVideo.__name__:
        return AutoencoderKLVideo
    return getattr(diffusers, name, None) if name.startswith("AutoencoderKL") else None


def compression(vae: ModelMixin | None) -> tuple[int, int]:
    """How many frames and how many pixels a side one latent stands for: (time, space)."""
    if vae is None:
        return 1, 1
    config = vae.config
    time = (
        getattr(vae, "temporal_compression_ratio", None)
        or config.get("temporal_compression_ratio")
        or config.get("scale_factor_temporal")
        or 1
    )
    space = (
        getattr(vae, "spatial_compression_ratio", None)
        or config.get("spatial_compression_ratio")
        or config.get("scale_factor_spatial")
        or 2 ** (len(config["block_out_channels"]) - 1)
    )
    return int(time), int(space)


def latent_shape(
    vae: ModelMixin | None, num_frames: int, height: int, width: int, *, pixel_channels: int = 3
) -> tuple[int, int, int, int]:
    """Shape (C, t, h, w) of the latents of a clip; the clip's own shape when there is no VAE.

    Raises:
        UsageError: frames that are not 1 + k * t, or a side that is not a multiple of the ratio.
    """
    time, space = compression(vae)
    check_stepped("num_frames", num_frames, time, offset=1)
    check_stepped("height", height, space)
    check_stepped("width", width, space)
    channels = pixel_channels if vae is None else _latent_channels(vae)
    return channels, (num_frames - 1) // time + 1, height // space, width // space


def encode_frames(vae: ModelMixin | None, frames: torch.Tensor) -> torch.Tensor:
    """Frames to latents of about unit variance: the mode of the posterior, normalised.

    Args:
        frames: [B, 3, T, H, W] in [-1, 1], T = 1 + k * t.

    Returns:
        latents [B, C, t, h, w] in the dtype of `frames`; the frames themselves without a VAE.
    """
    return encode_posterior(vae, frames)[0].to(frames.dtype)


def encode_posterior(
    vae: ModelMixin | None, frames: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean, which is the mode, and log variance of the normalised latents' posterior.

    Args:
        frames: [B, 3, T, H, W] in [-1, 1], T = 1 + k * t.

    Returns:
        two tensors float32 [B, C, t, h, w]; the frames and None without a VAE.
    """
    if vae is None:
        return frames.float(), None
    latent_shape(vae, *frames.shape[2:])
    inputs = frames.to(vae.dtype)
    if isinstance(vae, AutoencoderKL):  # two-dimensional: every frame is an image
        code = vae.encode(_fold(inputs)).latent_dist
        mean, logvar = (_unfold(part, len(frames)) for part in (code.mean, code.logvar))
    else:
        code = vae.encode(inputs).latent_dist
        mean, logvar = code.mean, code.logvar
    shift, scale = _normalisation(vae, mean.device)
    return (mean.float() - shift) * scale, logvar.float() + 2 * torch.as_tensor(scale).abs().log()


def decode_latents(vae: ModelMixin | None, latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents [B, C, t, h, w] back to frames [B, 3, T, H, W], about in [-1, 1]."""
    if vae is None:
        return latents
    shift, scale = _normalisation(vae, latents.device)
    inputs = (latents.float() / scale + shift).to(vae.dtype)
    if isinstance(vae, AutoencoderKL):
        frames = _unfold(vae.decode(_fold(inputs)).sample, latents.shape[0])
    else:
        frames = vae.decode(inputs).sample
    return frames.to(latents.dtype)


def set_tiling(vae: ModelMixin | None, enabled: bool) -> None:
    """Work on large frames in overlapping tiles: less memory, a little slower.

    Raises:
        UsageError: this VAE cannot.
    """
    if vae is None:
        return
    try:
        vae.enable_tiling() if enabled else vae.disable_tiling()
    except (AttributeError, NotImplementedError):
        raise UsageError(f"{type(vae).__name__} cannot work in tiles") from None


def _latent_channels(vae: ModelMixin) -> int:
    return int(vae.config.get("latent_channels") or vae.config["z_dim"])


def _normalisation(
    vae: ModelMixin, device: torch.device
) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """(shift, scale) of `(latents - shift) * scale`, one a channel where the VAE has statistics."""
    config = vae.config
    scaling = config.get("scaling_factor") or 1.0
    buffers = dict(vae.named_buffers(recurse=False))
    mean = buffers.get("latents_mean", config.get("latents_mean"))
    std = buffers.get("latents_std", config.get("latents_std"))
    if mean is None or std is None:
        return config.get("shift_factor") or 0.0, scaling
    mean, std = (
        torch.as_tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1)
        for values in (mean, std)
    )
    return mean, scaling / std


def _fold(video: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] -> [B * T, C, H, W]."""
    return video.transpose(1, 2).flatten(0, 1)


def _unfold(images: torch.Tensor, batch: int) -> torch.Tensor:
    """[B * T, C, H, W] -> [B, C, T, H, W]."""
    return images.unflatten(0, (batch, -1)).transpose(1, 2)
