"""Denoisers, their plans and presets, and the wiring of text encoders and VAEs."""

from statefilm.models.hth import HTHTransformer
from statefilm.models.plan import attention_plan, hybrid_plan, to_video
from statefilm.models.presets import PRESETS, build

__all__ = ["PRESETS", "HTHTransformer", "attention_plan", "build", "hybrid_plan", "to_video"]
