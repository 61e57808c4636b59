"""LPIPS: how different two images look, from the features of a given VGG-16."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.errors import UsageError
from statefilm.models.weights import read_tensors

__all__ = ["PerceptualDistance"]

# The convolutions of VGG-16 (arXiv 1409.1556, table 1, D) by their place in torchvision's list.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
# ImageNet's mean and deviation for values in [-1, 1], as LPIPS has them.
MEAN = (-0.030, -0.088, -0.188)
DEVIATION = (0.458, 0.448, 0.450)


class PerceptualDistance(nn.Module):
    """LPIPS with VGG features (arXiv 1801.03924, equation 1); frozen.

    Args:
        tensors: the state dict of `lpips.LPIPS(net="vgg")`: "net.slice1.0.weight" and so on for
            the convolutions, "lin0.model.1.weight" to "lin4..." for the weights of the channels.
            Widths are those of the tensors.

    Raises:
        UsageError: a tensor is missing; names it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for number, places in enumerate(STAGES):
            stage = nn.Sequential()
            for place in places:
                name = f"net.slice{number + 1}.{place}"
                weight, bias = (_get(tensors, f"{name}.{part}") for part in ("weight", "bias"))
                convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
                convolution.load_state_dict({"weight": weight, "bias": bias})
                stage.append(convolution).append(nn.ReLU())
            self.stages.append(stage)
            weights = _get(tensors, f"lin{number}.model.1.weight")
            self.register_buffer(f"channels{number}", weights.float().flatten())
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1))
        self.requires_grad_(False)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """From a safetensors file.

        Raises:
            UsageError: the file is damaged or missing, or is no such state dict.
        """
        tensors = dict(read_tensors(Path(path)))
        try:
            return cls(tensors)
        except (UsageError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{path} holds no LPIPS weights of VGG-16: {reason}") from None

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances [N] of images [N, 3, H, W] in [-1, 1], H and W at least 16."""
        both = (torch.cat([first, second]) - self.mean) / self.deviation
        distance = both.new_zeros(len(first), dtype=torch.float32)
        for number, stage in enumerate(self.stages):
            if number:
                both = F.max_pool2d(both, 2)
            both = stage(both)
            one, other = F.normalize(both.float(), dim=1, eps=1e-10).chunk(2)
            weights = self.get_buffer(f"channels{number}").view(-1, 1, 1)
            distance = distance + ((one - other).square() * weights).sum(1).mean((1, 2))
        return distance


def _get(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise UsageError(f"tensor {name!r} is missing")
    return tensors[name]
