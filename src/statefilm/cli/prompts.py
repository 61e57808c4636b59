"""Prompts from the command line and from txt, jsonl and csv files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from statefilm.cli.errors import CommandError

MAX_SEED = 2**63 - 1
_KEYS = ("prompt", "negative_prompt", "seed")


@dataclass(frozen=True)
class Prompt:
    """One prompt, "" for none; a seed or negative prompt given here overrides the command's."""

    text: str
    negative: str | None = None
    seed: int | None = None
    label: str | None = None


def collect(
    positional: str | None, repeated: Sequence[str], file: Path | None, labels: Sequence[str] = ()
) -> list[Prompt]:
    """All prompts of one command: the argument, then each `-p`, then the file's lines.

    Without any there is one for each label, or the empty one alone. With prompts there is one label
    for all of them or one for each.

    Raises:
        CommandError: one is blank, labels do not match, or the file is missing, empty or malformed.
    """
    prompts = [Prompt(text) for text in ([positional] if positional is not None else [])]
    prompts += [Prompt(text) for text in repeated]
    if file is not None:
        prompts += read_file(file)
    blank = [i for i, prompt in enumerate(prompts) if not prompt.text.strip()]
    if blank:
        raise CommandError(f"prompt {blank[0] + 1} is empty", "say what to draw")
    if not prompts:
        return [Prompt("", label=label) for label in labels] or [Prompt("")]
    if len(labels) not in (0, 1, len(prompts)):
        raise CommandError(
            f"{len(labels)} labels for {len(prompts)} prompts", "give one, or one each"
        )
    wanted = list(labels) * (len(prompts) // len(labels)) if labels else [None] * len(prompts)
    return [replace(prompt, label=label) for prompt, label in zip(prompts, wanted, strict=True)]


def read_file(path: Path) -> list[Prompt]:
    """Prompts of a file: txt (one a line), jsonl (objects) or csv (with a header).

    jsonl objects and csv rows have `prompt` and may have `negative_prompt` and `seed`.

    Raises:
        CommandError: with the line number of what is wrong.
    """
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CommandError(f"{path}: prompts files end in {', '.join(readers)}")
    if not path.is_file():
        raise CommandError(f"{path}: no such prompts file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path}: not UTF-8 text (byte {error.start})") from None
    prompts = list(reader(path, text))
    if not prompts:
        raise CommandError(f"{path}: holds no prompts")
    return prompts


def _read_txt(path: Path, text: str) -> Iterator[Prompt]:
    yield from (Prompt(line.strip()) for line in text.splitlines() if line.strip())


def _read_jsonl(path: Path, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CommandError(f"{path}:{number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise CommandError(f"{path}:{number}: not a JSON object")
        yield _from_row(row, f"{path}:{number}")


def _read_csv(path: Path, text: str) -> Iterator[Prompt]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            yield _from_row({k: v for k, v in row.items() if v}, f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise CommandError(f"{path}: not CSV ({error})") from None


def _from_row(row: dict[Any, Any], place: str) -> Prompt:
    unknown = [key for key in row if key not in _KEYS]
    if unknown:
        name = "more values than columns" if None in unknown else f"unknown key {unknown[0]!r}"
        raise CommandError(f"{place}: {name}", f"valid keys: {', '.join(_KEYS)}")
    text, negative, seed = (row.get(key) for key in _KEYS)
    if not isinstance(text, str) or not text.strip():
        raise CommandError(f"{place}: has no prompt")
    if negative is not None and not isinstance(negative, str):
        raise CommandError(f"{place}: negative_prompt {negative!r} is not text")
    return Prompt(text.strip(), negative, None if seed is None else parse_seed(seed, place))


def parse_seed(value: object, place: str) -> int:
    """A seed in [0, 2^63) from a number or its text."""
    try:
        seed = int(str(value))
    except ValueError:
        seed = -1
    if not 0 <= seed <= MAX_SEED:
        raise CommandError(f"{place}: seed {value!r} is not an integer from 0 to {MAX_SEED}")
    return seed
