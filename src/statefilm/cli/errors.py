"""Exit codes, and what an exception says to the user: one line, a hint, a code."""

from __future__ import annotations

import difflib
import re
import sys
from typing import NamedTuple

from statefilm.errors import UsageError

OK, FAILED, USAGE, PARTIAL, OUT_OF_MEMORY, INTERRUPTED = 0, 1, 2, 3, 4, 130


class CommandError(UsageError):
    """Bad input found by the command line, with a hint of what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class OutOfMemory(RuntimeError):
    """Memory ran out while generating; `hint` says what would fit."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Failure(NamedTuple):
    """How an exception is reported."""

    code: int
    message: str
    hint: str | None = None


def one_line(error: BaseException) -> str:
    """The exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """True for Python's and torch's ways of running out of memory, on any device."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # The CPU allocator has no exception class of its own.
    signs = ("can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def describe(error: Exception) -> Failure:
    """Exit code, message and hint for an exception that ended a command."""
    hint = getattr(error, "hint", None)
    if hasattr(error, "format_message"):  # the parser's own errors
        return Failure(USAGE, *_parser_error(error))
    if isinstance(error, OutOfMemory) or is_out_of_memory(error):
        message = one_line(error).split(". ")[0]  # allocators add advice of their own
        return Failure(OUT_OF_MEMORY, f"out of memory: {message}", hint)
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return Failure(USAGE, f"no such file or folder: {error.filename}", hint)
    if isinstance(error, ValueError | FileNotFoundError | FileExistsError | NotADirectoryError):
        return Failure(USAGE, *_split_suggestion(one_line(error), hint))
    if isinstance(error, OSError):
        return Failure(FAILED, one_line(error), hint)
    cut = re.search(r"(/\S+)/[^/\s]+\.so: file too short", str(error))
    if cut is not None and hint is None:  # of torch's compiler, stopped while it wrote its cache
        hint = f"a compiled library was cut off when a process was killed: remove {cut[1]}"
    hint = hint or "run again with --verbose for the traceback"
    return Failure(FAILED, f"{type(error).__name__}: {one_line(error)}", hint)


def _parser_error(error: Exception) -> tuple[str, str | None]:
    """Message and hint of an error raised while the arguments were parsed."""
    possible = getattr(error, "possibilities", None)
    context = getattr(error, "ctx", None)
    if possible:
        message = str(getattr(error, "message", error))
        wrong = getattr(error, "option_name", "")
        hint: str | None = (
            f"did you mean {difflib.get_close_matches(wrong, possible, cutoff=0)[0]}?"
        )
    else:
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        hint = f"see {context.command_path} --help" if context else None
    message, hint = _split_suggestion(message, hint)
    return message[:1].lower() + message[1:].rstrip("."), hint


def _split_suggestion(message: str, hint: str | None) -> tuple[str, str | None]:
    """Move a trailing "did you mean ..." out of the message into the hint."""
    found = re.search(r"[.:]? did you mean ", message, flags=re.IGNORECASE)
    if found is None:
        return message, hint
    return message[: found.start()], message[found.start() :].lstrip(".: ").replace("Did", "did", 1)
