"""TemporalSSMUNet: the pixel-space video U-Net whose time axis is a state space.

Legend: B batch, C channels, T frames, H, W pixels, E width of the time embedding, S text tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from statefilm.errors import UsageError, check_stepped, suggest
from statefilm.mixers import MIXERS
from statefilm.models.embeddings import TimestepEmbedder
from statefilm.models.unet.blocks import (
    Condition,
    ResBlock,
    SpatialAttention,
    TemporalLayer,
    TextLayer,
    on_frames,
)

# Parameters of the mixers that say how states decay.
_DECAYS = ["A_log", "dt_bias", "log_dt", "log_A_real", "A_imag"]


@dataclass
class TemporalSSMUNetOutput(BaseOutput):
    """What a forward returns.

    Attributes:
        sample: the prediction [B, C, T, H, W].
    """

    sample: Tensor


class TemporalSSMUNet(ModelMixin, ConfigMixin):
    """Video diffusion U-Net with temporal layers of any mixer (arXiv 2403.07711, 2204.03458).

    Convolutions and spatial attention see one frame at a time. Frames meet in the temporal layers:
    one after the stem, one a level on the way down and up, and one in the middle. They alone know
    the frames' order, and they take any number of frames.

    Args:
        in_channels: of the frames.
        dim: channels of the finest level; the paper's are 64 and 112.
        multipliers: of `dim`, one a level; every level but the last halves the resolution.
        temporal_mixer: a name of `statefilm.mixers.MIXERS`.
        temporal_mixer_options: its constructor options, over those of `width_options`.
        identity_init: let a fresh temporal layer be the identity. The papers do not, and say
            nothing of it.
        time_dim: width of the time embedding; None is 4 * dim (arXiv 2204.03458).
        groups: of the group norms; must divide dim.
        norm_over_frames: False: a group norm's statistics are those of one frame, so that time
            mixes in the temporal layers only. True: of all frames of the clip, as in the published
            code, where they are a second path between frames.
        spatial_heads, spatial_head_dim: of the spatial attention.
        patch_size: side in pixels of the squares that the finest level sees as one; the paper's
            is 1. Twice the side is a quarter of the work.
        num_classes: for class labels 0 to num_classes - 1; `num_classes` itself is the label of
            "no class". None for a model without.
        text_dim: width of the text states that cross-attention reads after each spatial attention.
            None for a model without.

    Raises:
        ValueError: a field out of its range, or an unknown mixer; one line that says what is valid.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResBlock", "SpatialAttention", "TemporalLayer", "TextLayer"]
    _repeated_blocks = ["ResBlock", "SpatialAttention", "TemporalLayer", "TextLayer"]
    _keep_in_fp32_modules = ["timestep_embedder", "class_embedding", *_DECAYS]
    _skip_layerwise_casting_patterns = ["timestep_embedder", "class_embedding", "norm", *_DECAYS]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        temporal_mixer: str = "s6",
        temporal_mixer_options: dict[str, Any] | None = None,
        identity_init: bool = False,
        time_dim: int | None = None,
        groups: int = 8,
        norm_over_frames: bool = False,
        spatial_heads: int = 8,
        spatial_head_dim: int = 32,
        patch_size: int = 1,
        num_classes: int | None = None,
        text_dim: int | None = None,
    ) -> None:
        super().__init__()
        time_dim = 4 * dim if time_dim is None else time_dim
        self._check_fields(time_dim)
        self.register_to_config(multipliers=tuple(multipliers))
        res = partial(ResBlock, time_dim=time_dim, groups=groups, norm_over_frames=norm_over_frames)
        spatial = partial(SpatialAttention, heads=spatial_heads, head_dim=spatial_head_dim)
        temporal = partial(
            TemporalLayer,
            mixer=temporal_mixer,
            options=dict(temporal_mixer_options or {}),
            identity_init=identity_init,
        )

        def read_text(width: int) -> dict[str, nn.Module]:
            return {} if text_dim is None else {"text": TextLayer(width, text_dim)}

        def level(width_in: int, width: int) -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    "res_1": res(width_in, width),
                    "res_2": res(width, width),
                    "spatial": spatial(width, linear=True),
                    **read_text(width),
                    "temporal": temporal(width),
                }
            )

        self.stem = nn.Conv2d(in_channels * patch_size**2, dim, 7, padding=3)
        self.stem_temporal = temporal(dim)
        self.timestep_embedder = TimestepEmbedder(time_dim)
        if num_classes is not None:
            self.class_embedding = nn.Embedding(num_classes + 1, time_dim)
        if text_dim is not None:
            self.text_norm = nn.RMSNorm(text_dim, eps=1e-6)

        widths = [dim * multiplier for multiplier in multipliers]
        steps = list(pairwise([dim, *widths]))  # (finer, coarser) of every level
        self.down = nn.ModuleList(level(finer, coarser) for finer, coarser in steps)
        self.downsample = nn.ModuleList(nn.Conv2d(w, w, 4, 2, 1) for w in widths[:-1])
        self.middle = nn.ModuleDict(
            {
                "res_1": res(widths[-1], widths[-1]),
                "spatial": spatial(widths[-1], linear=False),
                **read_text(widths[-1]),
                "temporal": temporal(widths[-1]),
                "res_2": res(widths[-1], widths[-1]),
            }
        )
        self.up = nn.ModuleList(level(2 * coarser, finer) for finer, coarser in reversed(steps))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(w, w, 4, 2, 1) for w in widths[-2::-1])
        self.final = res(2 * dim, dim, time_dim=None)
        self.to_out = nn.Linear(dim, in_channels * patch_size**2)
        self.gradient_checkpointing = False

    @property
    def size_step(self) -> int:
        """Heights and widths are multiples of this."""
        return self.config.patch_size * 2 ** (len(self.config.multipliers) - 1)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> TemporalSSMUNetOutput | tuple[Tensor]:
        """Denoise once.

        Args:
            hidden_states: noisy frames [B, C, T, H, W], any T >= 1.
            timestep: [B], 0 to 1000.
            class_labels: [B] integers 0 to `num_classes`; None is `num_classes`, "no class". The
                pipeline checks them; here that would make a GPU wait.
            encoder_hidden_states: text states [B, S, text_dim], of a model that reads text.
            encoder_attention_mask: [B, S], true where there is text; None reads all.

        Returns:
            `.sample`, the prediction, with the shape of `hidden_states`.

        Raises:
            ValueError: a size that cannot be halved, channels that do not fit, or conditions that
                the model does not take or lacks.
        """
        self._check_inputs(hidden_states, class_labels, encoder_hidden_states)
        condition = self._condition(
            timestep, class_labels, encoder_hidden_states, encoder_attention_mask
        )
        patch = self.config.patch_size
        patches = F.pixel_unshuffle(hidden_states.transpose(1, 2), patch).movedim(2, -1)
        x = on_frames(self.stem, patches.to(self.stem.weight.dtype))
        x = self._run([self.stem_temporal], x, condition)

        skips = [x]
        for number, level in enumerate(self.down):
            if number:
                x = on_frames(self.downsample[number - 1], x)
            x = self._run(level.children(), x, condition)
            skips.append(x)
        x = self._run(self.middle.children(), x, condition)
        for number, level in enumerate(self.up):
            if number:
                x = on_frames(self.upsample[number - 1], x)
            x = self._run(level.children(), torch.cat([x, skips.pop()], dim=-1), condition)
        x = self._run([self.final], torch.cat([x, skips.pop()], dim=-1), condition)

        patches = self.to_out(x).movedim(-1, 2).to(hidden_states.dtype)
        sample = F.pixel_shuffle(patches, patch).transpose(1, 2).contiguous()
        return TemporalSSMUNetOutput(sample=sample) if return_dict else (sample,)

    def _condition(
        self,
        timestep: Tensor,
        class_labels: Tensor | None,
        text: Tensor | None,
        mask: Tensor | None,
    ) -> Condition:
        time_BE = self.timestep_embedder(timestep)
        classes = self.config.num_classes
        if classes is not None:
            if class_labels is None:
                class_labels = torch.full_like(timestep, classes, dtype=torch.long)
            time_BE = time_BE + self.class_embedding(class_labels).float()
        if text is not None:
            text = self.text_norm(text.to(self.stem.weight.dtype))
        return Condition(F.silu(time_BE), text, None if mask is None else mask.bool())

    def _run(self, layers: Iterable[nn.Module], x: Tensor, condition: Condition) -> Tensor:
        for layer in layers:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(layer, x, condition)
            else:
                x = layer(x, condition)
        return x

    def _check_fields(self, time_dim: int) -> None:
        config = self.config
        mixer, options = config.temporal_mixer, config.temporal_mixer_options
        if not isinstance(config.multipliers, Sequence) or isinstance(config.multipliers, str):
            raise UsageError(f"multipliers {config.multipliers!r}: valid is (1, 2, 4, 8)")
        if not isinstance(mixer, str):
            raise UsageError(f"temporal_mixer {mixer!r}: valid is one of {', '.join(MIXERS)}")
        if not isinstance(options, Mapping | None):
            raise UsageError(f"temporal_mixer_options {options!r}: valid are names with values")
        numbers = {"in_channels": config.in_channels, "dim": config.dim, "time_dim": time_dim}
        for name in ("groups", "spatial_heads", "spatial_head_dim", "patch_size"):
            numbers[name] = config[name]
        for name in ("num_classes", "text_dim"):
            if config[name] is not None:
                numbers[name] = config[name]
        numbers |= {f"multipliers[{i}]": value for i, value in enumerate(config.multipliers)}
        for name, value in numbers.items():
            check_stepped(name, value, 1)
        if not config.multipliers:
            raise UsageError("multipliers () is empty: one a level is valid, as (1, 2, 4, 8)")
        if config.dim % config.groups:
            raise UsageError(f"groups {config.groups} does not divide dim {config.dim}")
        if config.temporal_mixer not in MIXERS:
            raise suggest(mixer, MIXERS, "temporal mixer")

    def _check_inputs(
        self, hidden_states: Tensor, class_labels: Tensor | None, text: Tensor | None
    ) -> None:
        channels = self.config.in_channels
        if hidden_states.dim() != 5 or hidden_states.shape[1] != channels:
            found = tuple(hidden_states.shape)
            raise UsageError(
                f"hidden_states has shape {found}, expected (batch, {channels}, frames, height, "
                "width)"
            )
        for name, size, step in zip(
            ("num_frames", "height", "width"),
            hidden_states.shape[2:],
            (1, self.size_step, self.size_step),
            strict=True,
        ):
            check_stepped(name, size, step)
        if class_labels is not None and self.config.num_classes is None:
            raise UsageError("class_labels are given, the model has no classes")
        if (text is None) != (self.config.text_dim is None):
            reads = "reads no text" if text is not None else "needs encoder_hidden_states"
            raise UsageError(f"the model {reads}: its text_dim is {self.config.text_dim}")


def temporal_parameters(model: nn.Module) -> int:
    """Number of parameters in the temporal layers, norms included."""
    layers = (module for module in model.modules() if isinstance(module, TemporalLayer))
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())
