"""What a temporal layer is measured in: alone on a small grid, or in a whole U-Net."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from statefilm.experiments.temporal.arms import Arm, Options
from statefilm.models import TemporalSSMUNet
from statefilm.models.unet import UNET_PRESETS
from statefilm.models.unet.blocks import Condition, TemporalLayer


class Subject(Protocol):
    """A module with one temporal mixer in all its temporal layers.

    Attributes:
        name: in rows and headings.
        widths: of its temporal layers.
        base: the width of the U-Net that it is, or stands for.
    """

    name: str
    widths: tuple[int, ...]
    base: int

    def build(self, arm: Arm, device: torch.device) -> nn.Module:
        """The module with fresh weights."""

    def inputs(self, frames: int, device: torch.device) -> list[Tensor]:
        """Random inputs of a clip."""

    def forward(self, module: nn.Module, inputs: list[Tensor]) -> Tensor:
        """The module's output."""


def temporal_widths(config: Options) -> tuple[int, ...]:
    """The widths of the temporal layers of a U-Net of these options."""
    with torch.device("meta"):
        model = TemporalSSMUNet(**config)
    layers = [module for module in model.modules() if isinstance(module, TemporalLayer)]
    return tuple(layer.norm.normalized_shape[0] for layer in layers)


class OneLayer:
    """A temporal layer on one clip of `side` x `side` pixels of width `dim`.

    Its input wants a gradient, as inside a network.
    """

    def __init__(self, dim: int = 64, side: int = 4) -> None:
        self.side, self.base = side, dim
        self.widths: tuple[int, ...] = (dim,)
        self.name = f"one temporal layer of width {dim} on {side} x {side} pixels"

    def build(self, arm: Arm, device: torch.device) -> nn.Module:
        (dim,) = self.widths
        with device:
            return TemporalLayer(dim, arm.mixer, dict(arm.options))

    def inputs(self, frames: int, device: torch.device) -> list[Tensor]:
        shape = (1, frames, self.side, self.side, *self.widths)
        return [torch.randn(shape, device=device).requires_grad_()]

    def forward(self, module: nn.Module, inputs: list[Tensor]) -> Tensor:
        grid: Tensor = module(*inputs, Condition(inputs[0]))
        return grid


class WholeUNet:
    """A named U-Net, with changes to its config, on one clip of `side` x `side` pixels."""

    def __init__(self, preset: str = "unet_tiny", side: int = 32, **changes: Any) -> None:
        self.config = {**UNET_PRESETS[preset], **changes}
        self.side, self.base = side, self.config["dim"]
        self.name = f"the U-Net {preset} at {side} px"
        self.widths = temporal_widths(self.config)

    def build(self, arm: Arm, device: torch.device) -> nn.Module:
        with device:
            return TemporalSSMUNet(
                **self.config,
                temporal_mixer=arm.mixer,
                temporal_mixer_options=dict(arm.options),
            )

    def inputs(self, frames: int, device: torch.device) -> list[Tensor]:
        clip = torch.randn(1, 3, frames, self.side, self.side, device=device)
        return [clip, torch.full((1,), 500.0, device=device)]

    def forward(self, module: nn.Module, inputs: list[Tensor]) -> Tensor:
        (frames,) = module(*inputs, return_dict=False)
        return frames
