"""Optimizers and the learning-rate schedule: which parameter is stepped by what, and how far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from statefilm.errors import UsageError
from statefilm.training import recipe as recipes
from statefilm.training.muon import SharedMuon
from statefilm.training.tensor_files import fill

__all__ = ["Optimizers", "learning_rate_factor"]

STATE: dict[type[Optimizer], tuple[str, ...]] = {
    AdamW: ("step", "exp_avg", "exp_avg_sq"),
    SharedMuon: ("momentum_buffer",),
}
TEXT = "text_encoder."  # how the names of a text encoder's parameters begin
DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Optimizers:
    """One or two torch optimizers over named parameters, stepped as one.

    With Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), the matrices of linear
    layers inside repeated blocks are its; embeddings, first and last layers, convolutions, norms,
    biases and the scalars of state-space mixers stay with AdamW, and so does the text encoder at a
    rate of its own: T5 does not scale the logits of its attention, so that steps which suit other
    layers soon leave them hundreds apart, where the order of words no longer counts. Weights of
    linear and convolutional layers decay, nothing else.

    Args:
        module: holds all parameters, sharded or not; those that need no gradient are left out.
        config: the recipe's section.
    """

    def __init__(self, module: nn.Module, config: recipes.Optimizer) -> None:
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        weights = _layer_weights(module, DECAYED)
        matrices = _block_matrices(module) if config.name == "muon" else set()
        matrices -= (text := {name for name in self.parameters if name.startswith(TEXT)})
        named = self.parameters.items()
        hidden = [p for name, p in named if name in matrices]

        lr = config.adam_lr if config.name == "muon" else config.lr
        decay = config.weight_decay
        groups: list[dict[str, Any]] = []
        for rate, own in ((lr, self.parameters.keys() - matrices - text), (config.text_lr, text)):
            for share, names in ((decay, own & weights), (0.0, own - weights)):
                params = [p for name, p in named if name in names]
                groups += [{"params": params, "lr": rate, "weight_decay": share}] if params else []
        self.optimizers: list[Optimizer] = []
        if groups:
            self.optimizers.append(AdamW(groups, lr=lr, betas=config.betas, fused=True))
        if hidden:
            momentum = config.momentum
            self.optimizers.append(
                SharedMuon(hidden, lr=config.lr, weight_decay=decay, momentum=momentum)
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]

    def step(self, factor: float) -> None:
        """Update the parameters, every learning rate scaled by `factor`."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state, as "key/parameter" to tensor."""
        names: dict[Tensor, str] = {p: name for name, p in self.parameters.items()}
        return {
            f"{key}/{names[parameter]}": value
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave.

        Raises:
            UsageError: the state is of other optimizers or parameters.
        """
        homes = {
            parameter: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for name in tensors:
            key, _, parameter_name = name.partition("/")
            parameter = self.parameters.get(parameter_name)
            if parameter is None or key not in STATE[type(homes[parameter])]:
                raise UsageError(
                    f"the checkpoint does not fit the recipe: its optimizer has {name!r}"
                )
            if key == "step":
                value = tensors[name].to(parameter.device)
            else:
                value = torch.empty_like(parameter)
                fill(value, tensors, name)
            homes[parameter].state[parameter][key] = value


def learning_rate_factor(config: recipes.Optimizer, step: int, progress: float) -> float:
    """The share of the base learning rates at a step.

    Args:
        step: steps done before this one; the first `warmup_steps` rise linearly.
        progress: 0 to 1, the part of the run (of its steps or its time) that is done.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return warmup
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warmup * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


def _layer_weights(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[str]:
    """Names of the weights of all layers of some kinds."""
    return {f"{name}.weight" for name, child in module.named_modules() if isinstance(child, kinds)}


def _block_matrices(module: nn.Module) -> set[str]:
    """Names of the linear layers' weights inside module lists, which hold the repeated blocks."""
    lists = [name for name, child in module.named_modules() if isinstance(child, nn.ModuleList)]
    prefixes = tuple(f"{name}." for name in lists)
    return {name for name in _layer_weights(module, (nn.Linear,)) if name.startswith(prefixes)}
