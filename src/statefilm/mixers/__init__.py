"""Token mixers behind one interface: [batch, length, dim] -> [batch, length, dim]."""

from difflib import get_close_matches

from torch import nn

from statefilm.mixers.attention import SelfAttentionMixer
from statefilm.mixers.hydra import HydraMixer
from statefilm.mixers.linear_attention import LinearAttentionMixer
from statefilm.mixers.mamba2 import BiMamba2Mixer

MIXERS: dict[str, type[nn.Module]] = {
    "hydra": HydraMixer,
    "bimamba2": BiMamba2Mixer,
    "linear_attention": LinearAttentionMixer,
    "attention": SelfAttentionMixer,
}


def build_mixer(name: str, dim: int, **options: object) -> nn.Module:
    """The mixer called `name` for tokens of width `dim`; ValueError names the valid ones."""
    if name not in MIXERS:
        near = get_close_matches(name, MIXERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown mixer {name!r}; valid: {', '.join(MIXERS)}{hint}")
    return MIXERS[name](dim, **options)


__all__ = [
    "MIXERS",
    "BiMamba2Mixer",
    "HydraMixer",
    "LinearAttentionMixer",
    "SelfAttentionMixer",
    "build_mixer",
]
