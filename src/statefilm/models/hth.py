"""HTHTransformer: the Hydra-Transformer Hybrid denoiser; with an all-attention plan, the DiT.

Legend: B batch, C channels, T, H, W frames and pixels (or tokens of the grid), D width, S text.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from statefilm.errors import suggest
from statefilm.mixers import MIXERS, output_layer
from statefilm.models.blocks import CROSS, SUBLAYERS, CrossAttention, HTHBlock, KeysValues
from statefilm.models.embeddings import TimestepEmbedder, linear_float32, sinusoidal_positions
from statefilm.models.patch import ConvPatch, PlainPatch, merge_time, split_time
from statefilm.models.plan import Plan, check_plan, hybrid_plan
from statefilm.models.sequence import ReadText, SequenceExtras
from statefilm.scans import Scan, get_scan, resolve

POSITIONS = ("sinusoidal", "continuous", "rope", "none")
MIN_SIGMA = 1e-3  # of the division that turns a predicted sample into a velocity

# So that diffusers' step caches know which output of a block are the tokens.
TransformerBlockRegistry.register(HTHBlock, TransformerBlockMetadata(return_hidden_states_index=0))


class HTHTransformer(ModelMixin, ConfigMixin, CacheMixin, PeftAdapterMixin):
    """Diffusion denoiser that mixes tokens as its plan says (HTH, arXiv 2502.00972).

    Fields marked (open) are not published; their defaults are this project's choice.

    Args:
        in_channels: channels of the latents (or 3 for pixels).
        patch_size: (frames, rows, columns) of a token. With more than one frame the first frame
            stands alone and the number of frames is 1 + k * patch_size[0].
        dim: width of the tokens (open).
        text_dim: width of the text states.
        plan: one entry a block, {"mixer", "image_scan", "video_scan"}; None is the published
            layout of 3 x (10 Hydra + 1 self-attention).
        head_dim: of cross- and self-attention (open).
        ff_dim: inner width of the feed-forward; None is 4 * dim (open).
        mixer_options: constructor options by mixer name, e.g. {"hydra": {"state_dim": 64}}.
        conditioning: "add" puts the timestep's embedding onto the tokens (as published);
            "adaln_single" modulates every sublayer (arXiv 2310.00426).
        position: "sinusoidal" (absolute, as published), "continuous" (the same of places on the
            canvas in place of numbers of tokens), "rope" (rotary, in self-attention only) or
            "none".
        patch_embed: "plain" patches, or "conv" for a convolutional stem and head.
        patch_width: channels of "conv" at full resolution.
        patch_modulated: whether the timestep modulates the stem and head of "conv".
        head_target: what the head predicts, "velocity" or "sample". Either way `forward` returns
            what the diffusion process asks for: a predicted sample x0 is returned as the velocity
            (x_t - x0) / sigma that it implies (arXiv 2511.13720).
        cross_attention: to the text, "before" each mixer (as published), "after" it, or "none".
        text_prefix: slots for the text before the tokens in every block's sequence; 0 is none.
        registers: learnt tokens among those of every block's sequence, see `SequenceExtras`.

    Raises:
        ValueError: a field out of its range, or an unknown name; one line that says what is valid.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["HTHBlock"]
    _repeated_blocks = ["HTHBlock"]
    _keep_in_fp32_modules = ["timestep_embedder", "A_log", "dt_bias"]
    _skip_layerwise_casting_patterns = ["timestep_embedder", "norm", "A_log", "dt_bias"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        dim: int = 2816,
        text_dim: int = 4096,
        plan: Plan | None = None,
        head_dim: int = 64,
        ff_dim: int | None = None,
        mixer_options: dict[str, dict[str, Any]] | None = None,
        conditioning: str = "add",
        position: str = "sinusoidal",
        patch_embed: str = "plain",
        patch_width: int = 16,
        patch_modulated: bool = False,
        head_target: str = "velocity",
        cross_attention: str = "before",
        text_prefix: int = 0,
        registers: int = 0,
    ) -> None:
        super().__init__()
        for field, value in (("dim", dim), ("in_channels", in_channels), ("text_dim", text_dim)):
            _check_count(field, value)
        if len(patch_size) != 3:
            raise ValueError(f"patch_size {patch_size!r} is not (frames, rows, columns)")
        for value in patch_size:
            _check_count("patch_size", value)
        _check("conditioning", conditioning, ("add", "adaln_single"))
        _check("position", position, POSITIONS)
        _check("patch_embed", patch_embed, ("plain", "conv"))
        if patch_modulated and patch_embed != "conv":
            raise ValueError(f"patch_modulated is for patch_embed 'conv', not {patch_embed!r}")
        _check("head_target", head_target, ("velocity", "sample"))
        _check("cross_attention", cross_attention, tuple(SUBLAYERS))
        for field, value in (("text_prefix", text_prefix), ("registers", registers)):
            _check_count(field, value, least=0)
        if cross_attention == "none" and not text_prefix:
            raise ValueError("cross_attention 'none' and text_prefix 0 leave the text out; use one")
        plan = hybrid_plan() if plan is None else check_plan(plan)
        self.register_to_config(plan=plan, patch_size=tuple(patch_size))
        for name in mixer_options or {}:
            if name not in MIXERS:
                raise suggest(name, MIXERS, "mixer")
        options = {name: dict(values) for name, values in (mixer_options or {}).items()}
        if position == "rope":
            options["attention"] = {"rope": "3d", **options.get("attention", {})}
        options["attention"] = {"head_dim": head_dim, **options.get("attention", {})}

        modulated = conditioning == "adaln_single"
        self.patch: ConvPatch | PlainPatch
        if patch_embed == "conv":
            time_dim = dim if patch_modulated else 0
            self.patch = ConvPatch(in_channels, in_channels, patch_size[1:], patch_width, time_dim)
        else:
            self.patch = PlainPatch(in_channels, in_channels, patch_size[1:])
        self.token_in = nn.Linear(patch_size[0] * self.patch.in_features, dim)
        self.timestep_embedder = TimestepEmbedder(dim)
        self.text_norm = nn.RMSNorm(text_dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            HTHBlock(
                dim,
                text_dim,
                ff_dim or 4 * dim,
                head_dim,
                block["mixer"],
                options.get(block["mixer"], {}),
                modulated,
                cross_attention,
            )
            for block in plan
        )
        self.norm_out = nn.LayerNorm(dim, eps=1e-6)
        self.token_out = nn.Linear(dim, patch_size[0] * self.patch.out_features)
        if modulated:
            self.time_modulation = nn.Linear(dim, 3 * len(SUBLAYERS[cross_attention]) * dim)
        self.extras: SequenceExtras | None = None
        if text_prefix or registers:
            self.extras = SequenceExtras(dim, text_dim, text_prefix, registers)
        self.gradient_checkpointing = False
        if self.token_in.weight.device.type != "meta":
            self._init_weights()

    def _init_weights(self) -> None:
        """Residual branches start small, modulation neutral, the output zero."""
        sublayers = SUBLAYERS[self.config.cross_attention]
        residual = 1 / math.sqrt(len(sublayers) * len(self.blocks))
        with torch.no_grad():
            for block in self.blocks:
                if CROSS in sublayers:
                    block.get_parameter("cross_attention.to_out.weight").mul_(residual)
                block.get_parameter("feed_forward.linear_out.weight").mul_(residual)
                output_layer(block.get_submodule("mixer")).weight.mul_(residual)
                if self.config.conditioning == "adaln_single":
                    block.get_parameter("modulation.weight").zero_()
            if self.config.conditioning == "adaln_single":
                self.time_modulation.weight.zero_()
                self.time_modulation.bias.zero_()
        self.patch.init_output(self.token_out)

    def enable_cache(self, config: FirstBlockCacheConfig) -> None:
        """Leave out the blocks after the first in steps in which the first hardly changes anything.

        What they did in the step before is then done again. `diffusers.FirstBlockCacheConfig`
        holds the threshold, a relative change of the first block's residual; `disable_cache`
        undoes it.

        Raises:
            ValueError: another kind of cache, or a plan whose first and last block differ in their
                scan, so that what was kept would lie in another order than where it is added.
        """
        if not isinstance(config, FirstBlockCacheConfig):
            raise ValueError(f"unknown cache {type(config).__name__}; valid: FirstBlockCacheConfig")
        first, last = self.config.plan[0], self.config.plan[-1]
        for name in ("image_scan", "video_scan"):
            if resolve(first[name]) != resolve(last[name]):
                raise ValueError(
                    f"step caching needs the first and last block to share their {name}, "
                    f"the plan has {first[name]} and {last[name]}"
                )
        super().enable_cache(config)

    def read_text(self, encoder_hidden_states: Tensor) -> ReadText:
        """What the blocks read of text states [B, S, text_dim], made once a generation.

        It depends on the text alone, so `forward` takes it in place of the states.
        """
        text = self._normed_text(encoder_hidden_states)
        keys_values: list[KeysValues] = []
        if self._has_cross_attention:
            attentions = (block.get_submodule("cross_attention") for block in self.blocks)
            keys_values = [cast(CrossAttention, one).keys_values(text) for one in attentions]
        return ReadText(keys_values, self._prefix_states(text))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | ReadText,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Denoise once.

        Args:
            hidden_states: noisy latents [B, C, T, H, W]; T = 1 is an image.
            timestep: [B], 0 to 1000 (1000 sigma for flow matching).
            encoder_hidden_states: text states [B, S, text_dim], or what `read_text` made of them.
            encoder_attention_mask: [B, S], true where there is text; None reads all.

        Returns:
            `.sample`, the prediction, with the shape of `hidden_states`.

        Raises:
            ValueError: a size that the patch does not divide, or channels that do not fit.
        """
        self._check_sizes(hidden_states)
        config = self.config
        batch, _, frames = hidden_states.shape[:3]
        dtype = self.token_in.weight.dtype

        # 1. Frames to a grid of tokens, kept as the sequence [B, T*H*W, D] of a scan.
        pixels = hidden_states.transpose(1, 2).flatten(0, 1).to(dtype)
        features, skips = self.patch.encode(pixels)
        features = features.unflatten(0, (batch, frames))
        features = merge_time(features, config.patch_size[0])
        grid = (features.shape[1], features.shape[2], features.shape[3])
        x = self.token_in(features.flatten(1, 3)).to(dtype)
        order = get_scan("thw", *grid, device=x.device)

        # 2. Conditions: position, text and registers, timestep.
        if config.position in ("sinusoidal", "continuous"):
            continuous = config.position == "continuous"
            codes = sinusoidal_positions(grid, config.dim, x.device, continuous=continuous)
            x = x + codes.flatten(0, 2).to(dtype)
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()
        texts, states = self._texts(encoder_hidden_states)
        if self.extras is not None:
            x = self.extras.join(x, self.extras(batch, states, mask))
        time_BD = self.timestep_embedder(timestep)
        time_BMD = None
        if config.conditioning == "adaln_single":
            with torch.autocast(x.device.type, enabled=False):
                modulation = linear_float32(F.silu(time_BD), self.time_modulation)
            time_BMD = modulation.unflatten(-1, (-1, config.dim))
        else:
            x = x + time_BD[:, None].to(dtype)

        # 3. The blocks, each along its own scan; only a change of scan moves the tokens.
        name = "image_scan" if grid[0] == 1 else "video_scan"
        for block, entry, text in zip(self.blocks, config.plan, texts, strict=True):
            scan = get_scan(entry[name], *grid, device=x.device)
            if scan.name != order.name:
                x, order = self._reordered(x, order, scan), scan
            positions = scan.positions if config.position == "rope" else None
            if positions is not None and self.extras is not None:
                positions = self.extras.positions(positions)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, text, mask, time_BMD, positions)
            else:
                x = block(x, text, mask, time_BMD, positions)
        if self.extras is not None:
            x, _ = self.extras.part(x)

        # 4. Tokens back to frames.
        features = self.token_out(self.norm_out(order.invert(x)))
        features = split_time(features, config.patch_size[0])
        time_ND = time_BD.repeat_interleave(frames, 0)
        sample = self.patch.decode(features.flatten(0, 1), skips, time_ND)
        sample = sample.unflatten(0, (batch, frames))
        sample = sample.transpose(1, 2).to(hidden_states.dtype)
        if config.head_target == "sample":
            sigma = (timestep.float() / 1000).clamp_min(MIN_SIGMA).view(-1, 1, 1, 1, 1)
            sample = ((hidden_states.float() - sample.float()) / sigma).to(hidden_states.dtype)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    @property
    def _has_cross_attention(self) -> bool:
        return bool(self.config.cross_attention != "none")

    def _normed_text(self, states: Tensor) -> Tensor:
        normed: Tensor = self.text_norm(states.to(self.token_in.weight.dtype))
        return normed

    def _prefix_states(self, text: Tensor) -> Tensor | None:
        """Normed text at the width of the tokens, for a model that reads it in its sequence."""
        if self.extras is None or not self.config.text_prefix:
            return None
        states: Tensor = self.extras.text_in(text).to(self.token_in.weight.dtype)
        return states

    def _texts(
        self, given: Tensor | ReadText
    ) -> tuple[Sequence[Tensor | KeysValues | None], Tensor | None]:
        """What each block's cross-attention reads, and the states for the text's slots."""
        depth = len(self.blocks)
        if not isinstance(given, Tensor):
            return given.keys_values or [None] * depth, given.states
        text = self._normed_text(given)
        return [text if self._has_cross_attention else None] * depth, self._prefix_states(text)

    def _reordered(self, x: Tensor, order: Scan, scan: Scan) -> Tensor:
        """A sequence in the order of one scan, its tokens brought into the order of another."""
        if self.extras is None:
            return scan.apply(order.invert(x))
        tokens, extras = self.extras.part(x)
        return self.extras.join(scan.apply(order.invert(tokens)), extras)

    def _check_sizes(self, hidden_states: Tensor) -> None:
        if hidden_states.dim() != 5 or hidden_states.shape[1] != self.config.in_channels:
            raise ValueError(
                f"hidden_states has shape {tuple(hidden_states.shape)}, expected "
                f"(batch, {self.config.in_channels}, frames, height, width)"
            )
        frames, height, width = hidden_states.shape[2:]
        t, h, w = self.config.patch_size
        if frames < 1 or (frames - 1) % t:
            raise ValueError(f"{frames} frames do not fit patches of {t}; valid: 1 + k * {t}")
        if height % h or width % w or not height or not width:
            raise ValueError(f"size {height}x{width} is not divisible by the patch {h}x{w}")


def _check_count(field: str, value: int, least: int = 1) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{field} {value!r} is not a whole number >= {least}")


def _check(field: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"unknown {field} {value!r}; valid: {', '.join(valid)}")
