"""A causal 3-D VAE with the middle of an image VAE, and image VAEs inflated into it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, AutoencoderKLMagvit
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from torch import Tensor

from statefilm.errors import UsageError

__all__ = ["AutoencoderKLVideo", "block_types", "inflate"]

# How an image VAE calls its parts, and how the causal one does.
RENAMED = (
    (r"mid_block\.attentions\.0", "mid_block.convs.1"),
    (r"mid_block\.resnets\.1", "mid_block.convs.{last}"),
    (r"\.resnets\.", ".convs."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.(down|up)samplers\.0\.", r".\1sampler."),
)
# Fields of the config that both have.
KEPT = (
    *("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block"),
    *("act_fn", "norm_num_groups", "scaling_factor", "shift_factor"),
)
MAX_LEVELS = 4  # the 3-D VAE encodes four frames at a time, which are halved twice at most


class AutoencoderKLVideo(AutoencoderKLMagvit):
    """`AutoencoderKLMagvit` whose encoder and decoder have the middle of `AutoencoderKL`.

    That is two residual blocks and between them, with `mid_block_add_attention`, attention among
    the sites of each frame. All else, shapes included, is as in the parent (arXiv 2405.18991);
    `shift_factor` is subtracted from latents before they are scaled.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 16,
        out_channels: int = 3,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        down_block_types: Sequence[str] = (
            "SpatialDownBlock3D",
            "SpatialTemporalDownBlock3D",
            "SpatialTemporalDownBlock3D",
            "SpatialTemporalDownBlock3D",
        ),
        up_block_types: Sequence[str] = (
            "SpatialUpBlock3D",
            "SpatialTemporalUpBlock3D",
            "SpatialTemporalUpBlock3D",
            "SpatialTemporalUpBlock3D",
        ),
        layers_per_block: int = 2,
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        spatial_group_norm: bool = True,
        mid_block_add_attention: bool = True,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            latent_channels=latent_channels,
            out_channels=out_channels,
            block_out_channels=block_out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            layers_per_block=layers_per_block,
            act_fn=act_fn,
            norm_num_groups=norm_num_groups,
            scaling_factor=scaling_factor,
            spatial_group_norm=spatial_group_norm,
        )
        for half in (self.encoder, self.decoder):
            block = type(half.mid_block)(
                block_out_channels[-1],
                num_layers=2,
                act_fn=act_fn,
                norm_num_groups=norm_num_groups,
                spatial_group_norm=spatial_group_norm,
            )
            if mid_block_add_attention:
                block.convs.insert(1, FrameAttention(block_out_channels[-1], norm_num_groups))
            half.mid_block = block


class FrameAttention(Attention):
    """Attention of one head among the sites of each frame: [B, C, T, H, W] to the same shape."""

    def __init__(self, channels: int, norm_num_groups: int) -> None:
        super().__init__(
            channels,
            heads=1,
            dim_head=channels,
            eps=1e-6,
            norm_num_groups=norm_num_groups,
            residual_connection=True,
            bias=True,
            upcast_softmax=True,
            _from_deprecated_attn_block=True,
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        images = hidden_states.transpose(1, 2).flatten(0, 1)
        images = super().forward(images)
        return images.unflatten(0, (len(hidden_states), -1)).transpose(1, 2)


def block_types(levels: int) -> dict[str, tuple[str, ...]]:
    """The block types of a causal 3-D VAE with `levels` sizes.

    Space is halved `levels` - 1 times and time `levels` - 2 times.
    """
    deeper = levels - 1
    return {
        "down_block_types": ("SpatialDownBlock3D",) + ("SpatialTemporalDownBlock3D",) * deeper,
        "up_block_types": ("SpatialUpBlock3D",) + ("SpatialTemporalUpBlock3D",) * deeper,
    }


def inflate(image_vae: AutoencoderKL) -> AutoencoderKLVideo:
    """A causal 3-D VAE that treats an image as `image_vae` does, to be trained on videos.

    Each 2-D kernel becomes the last moment of a 3-D one, the earlier moments being zero ("central"
    inflation of arXiv 1705.07750, made causal). At the start a clip of 1 + k * t frames has, as its
    latents, those of its frames 0, t, 2 t, ...; decoding shows each but the first t times. The
    weights are float32 and in evaluation mode.

    Raises:
        UsageError: the image VAE has parts or statistics that the 3-D one has not.
    """
    config = image_vae.config
    _check(config)
    levels = len(config.block_out_channels)
    attends = config.mid_block_add_attention
    video_vae = AutoencoderKLVideo(
        **{name: config[name] for name in KEPT},
        **block_types(levels),
        mid_block_add_attention=attends,
    )
    targets = video_vae.state_dict()
    weights = _unit_convolutions(targets)
    for name, tensor in image_vae.state_dict().items():
        name = _renamed(name, last=2 if attends else 1)
        weights[name] = _at_the_last_moment(tensor, targets[name])
    video_vae.load_state_dict(weights)
    return video_vae.eval()


def _check(config: dict) -> None:
    """Refuse an image VAE that would not come out the same."""
    kinds = {*config["down_block_types"], *config["up_block_types"]}
    odd = sorted(kinds - {"DownEncoderBlock2D", "UpDecoderBlock2D"})
    if odd:
        raise UsageError(f"an image VAE with {odd[0]} cannot be inflated: only plain blocks can")
    levels = len(config["block_out_channels"])
    if not 2 <= levels <= MAX_LEVELS:
        raise UsageError(
            f"an image VAE of {levels} sizes cannot be inflated: valid are 2 to {MAX_LEVELS}"
        )
    if config["act_fn"] not in ("silu", "swish"):
        raise UsageError(f"an image VAE with act_fn {config['act_fn']!r}: only silu is known")
    if config["latents_mean"] is not None:
        raise UsageError("an image VAE with latents_mean cannot be inflated: only shift_factor")


def _renamed(name: str, last: int) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement.replace("{last}", str(last)), name)
    return name


def _unit_convolutions(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions around the code that change nothing, for image VAEs that have none."""
    weights = {}
    for name in ("quant_conv", "post_quant_conv"):
        weight = targets[f"{name}.weight"]
        weights[f"{name}.weight"] = torch.eye(len(weight)).view_as(weight)
        weights[f"{name}.bias"] = torch.zeros(len(weight))
    return weights


def _at_the_last_moment(tensor: Tensor, target: Tensor) -> Tensor:
    """A 2-D kernel [O, I, h, w] as the last moment of a 3-D one; other tensors as they are."""
    if tensor.ndim != 4:
        return tensor
    kernel = torch.zeros_like(target)
    kernel[:, :, -1] = tensor
    return kernel
