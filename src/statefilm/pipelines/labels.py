"""Class labels by number or by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from statefilm.errors import UsageError, suggest

__all__ = ["Labels", "check_class_names", "read_labels"]

Labels = int | str | Sequence[int | str] | torch.Tensor | None


def check_class_names(names: Sequence[str] | None, num_classes: int | None) -> None:
    """Raise `UsageError` unless there are no names, or a different one for each class."""
    if names is None:
        return
    if len(names) != (num_classes or 0):
        raise UsageError(f"{len(names)} class_names for {num_classes or 0} classes: give one each")
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise UsageError(f"class name {twice[0]!r} is there twice: give each class its own")


def read_labels(
    labels: Labels, num_classes: int | None, names: Sequence[str] | None = None
) -> list[int]:
    """Labels as numbers, empty where none are given.

    Args:
        labels: one or several; numbers, also as text, or names. The number of classes itself is the
            label of "no class".
        num_classes: of the model; None for one without.
        names: of the classes, in order.

    Raises:
        UsageError: labels for a model without classes, none in a list, or an unknown one; of names
            the nearest is suggested.
    """
    if labels is None:
        return []
    if num_classes is None:
        raise UsageError("this model has no classes: leave class_labels out")
    values = labels.tolist() if isinstance(labels, torch.Tensor) else labels
    values = [values] if isinstance(values, int | str) else list(values)
    if not values:
        raise UsageError("class_labels is empty: give at least one label")
    return [_read_label(value, num_classes, names or ()) for value in values]


def _read_label(value: int | str, num_classes: int, names: Sequence[str]) -> int:
    if value in names:
        return names.index(str(value))
    if isinstance(value, str):
        if value.isascii() and value.isdigit():
            return _read_label(int(value), num_classes, ())
        if names:
            raise suggest(value, names, "class label")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= num_classes:
        raise UsageError(
            f"class label {value!r}: valid are 0 to {num_classes - 1}, and {num_classes} for no "
            "class"
        )
    return value
