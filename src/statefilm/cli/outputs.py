"""Where results go: files, folders and patterns; nothing is overwritten unasked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from statefilm.cli.errors import CommandError

DEFAULT_FOLDER = Path("outputs")
DEFAULT_NAMES = {False: "{prompt}_{seed}", True: "{i:04}_{prompt}_{seed}"}  # several samples?
_FIELD = re.compile(r"\{([^{}:]*)(?::0?(\d{1,2})d?)?\}")


def slug(text: str, length: int = 48) -> str:
    """A prompt as part of a file name: lower case words joined by dashes."""
    words = re.sub(r"[^\w]+", "-", text.lower()).strip("-_")
    return words[:length].rstrip("-_") or "sample"


def expand(pattern: str, *, i: int, seed: int, prompt: str) -> str:
    """Fill `{i}`, `{seed}` and `{prompt}`; `{i:4}` pads a number with zeros.

    Raises:
        CommandError: the pattern has another field.
    """
    fields: dict[str, int | str] = {"i": i, "seed": seed, "prompt": slug(prompt)}

    def fill(match: re.Match[str]) -> str:
        name, width = match.groups()
        if name not in fields:
            raise CommandError(
                f"unknown field {match.group()} in {pattern!r}", "valid: {i}, {seed}, {prompt}"
            )
        value = fields[name]
        return f"{value:0{width}d}" if width and isinstance(value, int) else str(value)

    return _FIELD.sub(fill, pattern)


def plan(
    output: str | None, suffix: str, prompts: Sequence[str], seeds: Sequence[int]
) -> list[Path]:
    """One path for each sample.

    `output` is a file (numbered when there are several samples), a folder, or a pattern with
    `{i}`, `{seed}`, `{prompt}`; None is the folder `outputs`. `suffix` (".png") is added to
    names without one.

    Raises:
        CommandError: another suffix, an unknown field, or two samples with one name.
    """
    pattern = _pattern(output, suffix, several=len(prompts) > 1)
    paths = [
        Path(expand(pattern, i=i, seed=seed, prompt=prompt))
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    if len(set(paths)) < len(paths):
        raise CommandError(f"{output!r} gives several samples one name", "add {i} to it")
    return paths


def _pattern(output: str | None, suffix: str, *, several: bool) -> str:
    name = DEFAULT_NAMES[several] + suffix
    if output is None:
        return str(DEFAULT_FOLDER / name)
    path = Path(output)
    if output.endswith("/") or path.is_dir():
        return str(path / name)
    if path.suffix.lower() == suffix:
        numbered = several and not _FIELD.search(output)
        return str(path.with_name(f"{path.stem}_{{i}}{path.suffix}")) if numbered else output
    if re.fullmatch(r"\.\w{1,4}", path.suffix):
        raise CommandError(f"{output!r} does not end in {suffix}")
    return output + suffix if _FIELD.search(path.name) else str(path / name)


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raise when any of the paths is taken.

    Raises:
        CommandError: naming the first and how many.
    """
    taken = [path for path in paths if path.exists()]
    if taken:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise CommandError(
            f"{taken[0]} exists{more}", "--force overwrites, --skip-existing leaves it"
        )


def claim(paths: Sequence[Path], *, force: bool) -> None:
    """Raise when any of the paths is taken, unless it may be overwritten, or could not be written.

    Raises:
        CommandError: naming the first.
    """
    taken = [path for path in paths if path.exists()]
    if taken and not force:
        raise CommandError(f"{taken[0]} exists", "--force overwrites it")
    check_writable(paths)


def check_writable(paths: Sequence[Path]) -> None:
    """Raise when any of the paths could not be written, found before anything is made.

    Raises:
        CommandError: it lies under something that is not a folder, or that lets nothing be written.
    """
    for path in paths:
        parent = next(p for p in path.parents if p.exists())
        if not parent.is_dir():
            raise CommandError(f"{path}: {parent} is not a folder")
        if not os.access(parent, os.W_OK):
            raise CommandError(f"{path}: no permission to write in {parent}")
