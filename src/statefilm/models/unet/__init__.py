"""The video U-Net with temporal layers of any mixer, and its named sizes."""

from statefilm.models.unet.model import TemporalSSMUNet, temporal_parameters
from statefilm.models.unet.presets import UNET_PRESETS, published_heads

__all__ = ["UNET_PRESETS", "TemporalSSMUNet", "published_heads", "temporal_parameters"]
