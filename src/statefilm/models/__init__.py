"""Denoisers, their plans and presets, and the wiring of text encoders and VAEs."""

from statefilm.models.hth import HTHTransformer
from statefilm.models.plan import attention_plan, hybrid_plan, to_video
from statefilm.models.presets import PRESETS, build
from statefilm.models.unet import UNET_PRESETS, TemporalSSMUNet, temporal_parameters

__all__ = [
    "PRESETS",
    "UNET_PRESETS",
    "HTHTransformer",
    "TemporalSSMUNet",
    "attention_plan",
    "build",
    "hybrid_plan",
    "temporal_parameters",
    "to_video",
]
