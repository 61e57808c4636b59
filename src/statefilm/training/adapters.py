"""Training a part of a denoiser: frozen parameters, and LoRA through PEFT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn

from statefilm.errors import UsageError
from statefilm.models import HTHTransformer
from statefilm.training import recipe as recipes

__all__ = ["add_lora", "freeze", "plain", "save_lora"]

BASE = ".base_layer."
ADAPTER = "default"


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Take parameters out of training whose names match one of the patterns ("blocks.0.*").

    Raises:
        UsageError: a pattern matches nothing, or all is frozen.
    """
    named = dict(module.named_parameters())
    for pattern in patterns:
        found = [name for name in named if fnmatchcase(name, pattern)]
        if not found:
            first = next(iter(named))
            raise UsageError(
                f"model.freeze: {pattern!r} matches no parameter; they are called {first!r} and so "
                "on, and * stands for anything"
            )
        for name in found:
            named[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise UsageError("model.freeze leaves no parameter to train")


def add_lora(transformer: HTHTransformer, config: recipes.LoRA) -> None:
    """Put low-rank adapters beside the linear layers of the blocks; only they are trained.

    Raises:
        UsageError: peft is not installed, or a target is the end of no layer's name.
    """
    if find_spec("peft") is None:
        raise UsageError("model.lora needs peft: pip install 'statefilm[lora]'")
    from peft import LoraConfig

    linear = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    ]
    for target in config.targets:
        if not any(name.endswith(f".{target}") for name in linear):
            endings = sorted({name.split(".", 2)[2] for name in linear})
            raise UsageError(f"model.lora.targets: no {target!r}; valid: {', '.join(endings)}")
    wanted = [
        name
        for name in linear
        if not config.targets or any(name.endswith(f".{target}") for target in config.targets)
    ]
    transformer.add_adapter(
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha or config.rank,
            lora_dropout=config.dropout,
            target_modules=wanted,
        ),
        ADAPTER,
    )


def save_lora(transformer: HTHTransformer, folder: Path) -> None:
    """Write the adapters alone, in the form that `load_lora_adapter` of diffusers reads."""
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # of a cast to no dtype, which changes nothing
    try:
        transformer.save_lora_adapter(folder, ADAPTER)
    finally:
        diffusers_logging.set_verbosity(verbosity)


@contextmanager
def plain(pipeline: Any) -> Iterator[None]:
    """A pipeline whose transformer has its adapters merged into its weights, inside the context."""
    adapted = pipeline.transformer
    with torch.device("meta"):
        merged = HTHTransformer.from_config(adapted.config)
    merged.load_state_dict(_merged(adapted), assign=True)
    pipeline.transformer = merged
    try:
        yield
    finally:
        pipeline.transformer = adapted


@torch.no_grad()
def _merged(transformer: HTHTransformer) -> dict[str, torch.Tensor]:
    """The state dict as it would be without adapters, were their work done by the weights."""
    state = {
        name.replace(BASE, "."): value.cpu()
        for name, value in transformer.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in transformer.named_modules():
        if hasattr(module, "get_delta_weight"):
            weight = f"{name}.weight"
            state[weight] = state[weight] + module.get_delta_weight(ADAPTER).to(state[weight])
    return state
