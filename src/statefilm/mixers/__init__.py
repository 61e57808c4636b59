"""Token mixers behind one interface: [batch, length, dim] -> [batch, length, dim]."""

from inspect import signature

from torch import nn

from statefilm.errors import suggest
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
    """The mixer called `name` for tokens of width `dim`.

    Raises:
        ValueError: an unknown name or option, with the nearest known one; or a bad value.
    """
    if name not in MIXERS:
        raise suggest(name, MIXERS, "mixer")
    known = [option for option in signature(MIXERS[name]).parameters if option != "dim"]
    for option in options:
        if option not in known:
            raise suggest(option, known, f"option of mixer {name}")
    return MIXERS[name](dim, **options)


__all__ = [
    "MIXERS",
    "BiMamba2Mixer",
    "HydraMixer",
    "LinearAttentionMixer",
    "SelfAttentionMixer",
    "build_mixer",
]
