"""A discriminator of patches of images and clips, the adversary of a VAE in training."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["PatchDiscriminator"]

SLOPE = 0.2  # of the leaky rectifiers
WIDEST = 8  # times the first width
GROUP = 16  # channels that are normalised together


class PatchDiscriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004, section 3.2) with kernels over time; an image is a short clip.

    Group norms stand in the place of batch norms, so that what is said of a sample does not depend
    on the others.

    Args:
        in_channels: of the frames.
        channels: width of the first layer, a multiple of 16; it doubles with each, up to 8 times.
        layers: how often space and time are halved.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [channels * min(2**level, WIDEST) for level in range(layers + 1)]
        parts: list[nn.Module] = [_convolution(in_channels, channels, 2), nn.LeakyReLU(SLOPE)]
        for level in range(1, layers + 1):
            parts += [
                _convolution(widths[level - 1], widths[level], 2 if level < layers else 1),
                nn.GroupNorm(widths[level] // GROUP, widths[level]),
                nn.LeakyReLU(SLOPE),
            ]
        self.layers = nn.Sequential(*parts, _convolution(widths[-1], 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """How real each patch looks, [B, 1, t, h, w], of frames [B, C, T, H, W]."""
        return self.layers(frames)


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, (3, 4, 4), stride, padding=1)
