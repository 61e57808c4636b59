"""What the sections of recipes are made of: the base class, and numbers with their ranges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from statefilm.errors import suggest

__all__ = [
    "BelowOne",
    "Count",
    "Finite",
    "NotNegative",
    "Positive",
    "Section",
    "Share",
    "WholeNumber",
    "choose",
]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def choose(value: str, choices: Iterable[str], kind: str) -> str:
    """`value`, if it is one of the choices; UsageError that suggests the nearest otherwise."""
    if value not in choices:
        raise suggest(value, choices, kind)
    return value
