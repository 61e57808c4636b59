"""Named sizes of the denoisers, and `build`, which makes one."""

from inspect import signature
from typing import Any

from statefilm.errors import suggest
from statefilm.models.hth import HTHTransformer
from statefilm.models.plan import attention_plan, hybrid_plan

_PIXELS: dict[str, Any] = {
    "in_channels": 3,
    "patch_size": (4, 8, 8),
    "text_dim": 256,
    "patch_embed": "conv",
    "head_target": "sample",
    "conditioning": "adaln_single",
    "mixer_options": {"hydra": {"expand": 1, "state_dim": 32}},
}

# The dit_* feed-forward is widened until the parameters match: only the mixer differs.
PRESETS: dict[str, dict[str, Any]] = {
    "hth_5b": {"dim": 2816, "plan": hybrid_plan(3)},
    "dit_5b": {"dim": 2816, "plan": attention_plan(33), "ff_dim": 14112},
    "hth_1b": {"dim": 1536, "text_dim": 2048, "plan": hybrid_plan(2)},
    "dit_1b": {"dim": 1536, "text_dim": 2048, "plan": attention_plan(22), "ff_dim": 7744},
    "hth_300m": {"dim": 896, "text_dim": 1024, "plan": hybrid_plan(2)},
    "dit_300m": {"dim": 896, "text_dim": 1024, "plan": attention_plan(22), "ff_dim": 4576},
    "hth_tiny": {"dim": 256, "ff_dim": 768, "plan": hybrid_plan(1), **_PIXELS},
    "dit_tiny": {"dim": 256, "ff_dim": 720, "plan": attention_plan(11), **_PIXELS},
}


def build(preset: str, **overrides: Any) -> HTHTransformer:
    """A denoiser with fresh weights.

    Args:
        preset: a name of `PRESETS`.
        overrides: constructor arguments of `HTHTransformer` that replace the preset's.

    Returns:
        The model; on the meta device, without memory, inside `with torch.device("meta")`.

    Raises:
        ValueError: the preset or an override is unknown; the message names the nearest.
    """
    if preset not in PRESETS:
        raise suggest(preset, PRESETS, "preset")
    fields = [name for name in signature(HTHTransformer.__init__).parameters if name != "self"]
    for name in overrides:
        if name not in fields:
            raise suggest(name, fields, "model field")
    return HTHTransformer(**{**PRESETS[preset], **overrides})
