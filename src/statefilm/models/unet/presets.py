"""Named sizes of the video U-Net; `statefilm.models.build` makes them."""

from typing import Any

# Of the two sizes of arXiv 2403.07711, time_dim and norm_over_frames are those of its code.
UNET_PRESETS: dict[str, dict[str, Any]] = {
    "unet_64": {"dim": 64, "time_dim": 2048, "norm_over_frames": True},
    "unet_112": {"dim": 112, "time_dim": 3584, "norm_over_frames": True},
    "unet_tiny": {"dim": 32, "multipliers": (1, 2, 4), "spatial_heads": 4},
}


def published_heads(dim: int) -> int:
    """Heads of temporal attention in a U-Net of base width `dim`: 8 at 64 and 14 at 112."""
    return max(1, dim // 8)
