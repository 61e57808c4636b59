"""Named sizes of the denoisers, and `build`, which makes one."""

from inspect import signature
from typing import Any

from diffusers import ModelMixin

from statefilm.errors import suggest
from statefilm.models.hth import HTHTransformer
from statefilm.models.plan import attention_plan, hybrid_plan
from statefilm.models.unet import UNET_PRESETS, TemporalSSMUNet

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


def build(preset: str, **overrides: Any) -> ModelMixin:
    """A denoiser with fresh weights.

    Args:
        preset: a name of `PRESETS` or of `UNET_PRESETS`.
        overrides: constructor arguments that replace the preset's.

    Returns:
        An `HTHTransformer`, or a `TemporalSSMUNet` of a preset of `UNET_PRESETS`; on the meta
        device, without memory, inside `with torch.device("meta")`.

    Raises:
        ValueError: the preset or an override is unknown; the message names the nearest.
    """
    if preset not in PRESETS and preset not in UNET_PRESETS:
        raise suggest(preset, [*PRESETS, *UNET_PRESETS], "preset")
    is_unet = preset in UNET_PRESETS
    model, presets = (TemporalSSMUNet, UNET_PRESETS) if is_unet else (HTHTransformer, PRESETS)
    fields = [name for name in signature(model.__init__).parameters if name != "self"]
    for name in overrides:
        if name not in fields:
            raise suggest(name, fields, "model field")
    return model(**{**presets[preset], **overrides})
