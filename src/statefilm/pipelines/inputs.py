"""Checks of a pipeline call's arguments: the first bad one is named, with what would be valid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from statefilm.errors import UsageError

__all__ = ["batch_size", "check_choice", "check_guidance_scale", "check_text"]

Prompt = str | Sequence[str] | None


def batch_size(text: Prompt, embeds: torch.Tensor | None) -> int:
    """How many prompts there are; 0 when none is given."""
    if embeds is not None:
        return len(embeds)
    return 1 if isinstance(text, str) else len(text or ())


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """`value` is one of `choices`."""
    if value not in choices:
        raise UsageError(f"{name} {value!r}: choose from {', '.join(choices)}")


def check_guidance_scale(value: Any) -> None:
    """A finite number of at least 0."""
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageError(f"guidance_scale {value!r} must be a number of at least 0")


def check_text(
    name: str, text: Prompt, embeds: torch.Tensor | None, *, has_encoder: bool, text_dim: int
) -> None:
    """Either nothing, or one of texts (where there is an encoder for them) and their states."""
    if text is not None and embeds is not None:
        raise UsageError(f"{name} and {name}_embeds exclude each other: give one")
    if embeds is not None and (embeds.dim() != 3 or embeds.shape[-1] != text_dim):
        shape = tuple(embeds.shape)
        raise UsageError(f"{name}_embeds has shape {shape}, expected (batch, S, {text_dim})")
    if text is None or (isinstance(text, str) and has_encoder):
        return
    if not has_encoder:
        raise UsageError(f"this pipeline has no text encoder: give {name}_embeds")
    if not isinstance(text, Sequence) or not all(isinstance(one, str) for one in text):
        raise UsageError(f"{name} must be a text or a list of texts, got {text!r}")
    if not text:
        raise UsageError(f"{name} is an empty list: give at least one text")
