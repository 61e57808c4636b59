"""Tables of paths and captions: .jsonl, .csv and .parquet, row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from statefilm.data.files.captions import parse
from statefilm.data.files.entry import Limits, reason_of
from statefilm.errors import UsageError

__all__ = ["PATH_KEYS", "TABLES", "Row", "is_table", "read_rows"]

PATH_KEYS = ("file_name", "path", "file")
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # found by their names

# Number of the row from 1, and the row or what is wrong with it.
Row = tuple[int, dict[str, Any] | str]


def is_table(name: str) -> bool:
    """Whether a file is a table by its suffix."""
    return PurePosixPath(name).suffix.lower() in _READERS


def read_rows(path: Path, limits: Limits) -> Iterator[Row]:
    """The rows of a table. A broken one does not keep the others from being read.

    Raises:
        UsageError: the table as a whole cannot be read.
    """
    try:
        yield from _READERS[path.suffix.lower()](path, limits)
    except UsageError as error:
        raise UsageError(f"{path.name}: {error}") from None
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path.name}: {reason_of(error)}") from None


def _json_lines(path: Path, limits: Limits) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file, limits), start=1):
            if isinstance(line, bytes) and not line.strip():
                continue
            yield number, line if isinstance(line, str) else _object(line)


def _lines(file: io.BufferedReader, limits: Limits) -> Iterator[bytes | str]:
    """Lines within the limit; what is wrong in place of longer ones."""
    while line := file.readline(limits.text_bytes + 1):
        if len(line) <= limits.text_bytes:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(limits.text_bytes)
        yield f"the line is longer than {limits.text_bytes} bytes"


def _object(line: bytes) -> dict[str, Any] | str:
    try:
        row = parse(line)
    except UsageError as error:
        return reason_of(error)
    return row if isinstance(row, dict) else "the line is not a JSON object"


def _csv(path: Path, limits: Limits) -> Iterator[Row]:
    csv.field_size_limit(limits.text_bytes)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            is_whole = None not in row and None not in row.values()
            yield number, dict(row) if is_whole else "the row has not as many fields as the first"


def _parquet(path: Path, limits: Limits) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("needs pyarrow: pip install 'statefilm[data]'") from None
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in file.schema_arrow.names if not name.startswith("__")]
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise UsageError(reason_of(error)) from None


_READERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
