"""Captions from what users write them in: text files, JSON, rows of a table, names of classes."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from statefilm.errors import UsageError

__all__ = ["CAPTION_KEYS", "captions_of", "class_words", "fill", "from_json", "from_text", "parse"]

CAPTION_KEYS = ("caption", "text", "prompt")
LONGEST = 10_000  # characters of a caption


def from_text(data: bytes) -> tuple[str, ...]:
    """The caption that a .txt file holds; none if it is blank."""
    return captions_of(_decode(data))


def from_json(data: bytes) -> tuple[str, ...]:
    """The captions in a .json file: a text, a list of texts, or an object with one of the keys."""
    value = parse(data)
    return captions_of(pick(value) if isinstance(value, dict) else value)


def parse(data: bytes) -> Any:
    """JSON whose faults, its depth included, are one-line errors."""
    try:
        return json.loads(_decode(data))
    except RecursionError:
        raise UsageError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from None


def pick(row: Mapping[str, Any]) -> Any:
    """What an object or a row says under the first of `CAPTION_KEYS` that it has."""
    return next((row[key] for key in CAPTION_KEYS if row.get(key) is not None), ())


def captions_of(value: Any) -> tuple[str, ...]:
    """One text or several as captions on one line each; blank ones are left out.

    Raises:
        UsageError: it is no text, too long, or has control characters.
    """
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
        raise UsageError("the caption is neither a text nor a list of texts")
    return tuple(filter(None, map(_clean, values)))


def class_words(name: str) -> str:
    """The name of a class as words: "apply_eye-makeup" and "ApplyEyeMakeup" alike."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_-]+", name)).strip().lower()


def fill(template: str, words: str) -> tuple[str, ...]:
    """A template's caption of a class: "{}" stands for its words."""
    if template.count("{}") != 1:
        raise UsageError(f"template {template!r} has not one {{}}: try 'a photo of {{}}'")
    return captions_of(template.replace("{}", words))


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("the text is not UTF-8") from None


def _clean(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > LONGEST:
        raise UsageError(f"a caption of {len(text)} characters is longer than {LONGEST}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise UsageError("the caption has control characters")
    return text
