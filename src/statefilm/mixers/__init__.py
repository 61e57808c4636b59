"""Token mixers behind one interface: [batch, length, dim] -> [batch, length, dim]."""

from inspect import signature

from torch import nn

from statefilm.errors import UsageError, suggest
from statefilm.mixers.attention import SelfAttentionMixer
from statefilm.mixers.hydra import HydraMixer
from statefilm.mixers.linear_attention import LinearAttentionMixer
from statefilm.mixers.mamba2 import BiMamba2Mixer
from statefilm.mixers.s4d import S4DMixer
from statefilm.mixers.s6 import S6Mixer
from statefilm.mixers.temporal_attention import (
    TemporalAttentionMixer,
    TemporalLinearAttentionMixer,
)

MIXERS: dict[str, type[nn.Module]] = {
    "hydra": HydraMixer,
    "bimamba2": BiMamba2Mixer,
    "linear_attention": LinearAttentionMixer,
    "attention": SelfAttentionMixer,
    "s4d": S4DMixer,
    "s6": S6Mixer,
    "temporal_attention": TemporalAttentionMixer,
    "temporal_linear_attention": TemporalLinearAttentionMixer,
}


def build_mixer(name: str, dim: int, **options: object) -> nn.Module:
    """The mixer called `name` for tokens of width `dim`.

    Raises:
        ValueError: an unknown name or option, with the nearest known one; or a bad value.
    """
    if name not in MIXERS:
        raise suggest(name, MIXERS, "mixer")
    known = dict(signature(MIXERS[name]).parameters)
    del known["dim"]
    for option, value in options.items():
        if option not in known:
            raise suggest(option, known, f"option of mixer {name}")
        default = known[option].default
        is_number = isinstance(default, int | float)
        if is_number and isinstance(value, str | list | dict):
            raise UsageError(f"{option} {value!r} of mixer {name}: {default!r} is valid")
    return MIXERS[name](dim, **options)


def output_layer(mixer: nn.Module) -> nn.Linear:
    """The linear layer through which a mixer's result leaves it."""
    *_, last = (module for module in mixer.modules() if isinstance(module, nn.Linear))
    return last


__all__ = [
    "MIXERS",
    "BiMamba2Mixer",
    "HydraMixer",
    "LinearAttentionMixer",
    "S4DMixer",
    "S6Mixer",
    "SelfAttentionMixer",
    "TemporalAttentionMixer",
    "TemporalLinearAttentionMixer",
    "build_mixer",
    "output_layer",
]
