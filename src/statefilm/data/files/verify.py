"""A user's data decoded to the end, which headers alone do not tell: what is broken, and why."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

from statefilm.data.files.arrays import read_clip
from statefilm.data.files.entry import BadItem, Entry, Limits, refusing
from statefilm.data.files.listing import open_item
from statefilm.data.files.load import WHITE, read_still
from statefilm.data.files.probe import frame_names
from statefilm.data.files.source import Source
from statefilm.data.files.videos import decode_video

__all__ = ["verify"]

_AHEAD = 4  # entries that wait for each thread
_BYTES = 1 << 24  # of an array, read at a time


def verify(
    source: Source,
    entries: Iterable[Entry] | None = None,
    advance: Callable[[BadItem | None], object] = lambda bad: None,
) -> dict[str, str]:
    """Decode entries to their end, several at a time.

    Args:
        entries: of the source; None is all. What the index refused is not among them.
        advance: called after each entry, in order, with what is wrong with it or None.

    Returns:
        Name to reason of those that are broken.
    """
    bad: dict[str, str] = {}
    faults = _faults(source, source.entries if entries is None else entries)
    # Filters of warnings are those of the whole process: a thread cannot set its own.
    with warnings.catch_warnings(), closing(faults):
        warnings.simplefilter("ignore")
        for fault in faults:
            if fault is not None:
                bad[fault.name] = fault.reason
            advance(fault)
    return bad


def _faults(source: Source, entries: Iterable[Entry]) -> Generator[BadItem | None]:
    threads, stopped = os.cpu_count() or 1, Event()
    waiting: deque[Future[BadItem | None]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for entry in entries:
            waiting.append(pool.submit(_fault, source, entry, stopped))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _fault(source: Source, entry: Entry, stopped: Event) -> BadItem | None:
    try:
        with refusing(entry.name):
            for _ in _decode(source.root, entry, source.limits):
                if stopped.is_set():
                    break
    except BadItem as error:
        return error
    return None


def _decode(root: Path, entry: Entry, limits: Limits) -> Iterator[None]:
    """Decode all that an entry holds, a part of it with each turn."""
    if entry.kind in ("image", "frames"):
        names = frame_names(root, entry.path) if entry.kind == "frames" else [None]
        for name in names:
            read_still(root, entry, name, (entry.height, entry.width), WHITE, limits)
            yield
        return
    with open_item(root, entry) as file:
        if entry.kind == "video":
            assert entry.fps is not None
            yield from decode_video(file, entry.frames, entry.fps, WHITE, limits)
            return
        at_once = max(1, _BYTES // (4 * entry.width * entry.height))
        for start in range(0, entry.frames, at_once):
            some = range(start, min(start + at_once, entry.frames))
            read_clip(file, entry.size, entry.part or 0, some)
            yield
