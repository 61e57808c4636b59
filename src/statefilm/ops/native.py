"""Plain C at run time: built by the machine's own compiler, kept in a folder of the user, loaded.

No form of an op needs this: without a compiler, `library` says why and others do the work.
"""

import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SWITCH = "STATEFILM_NATIVE"
FLAGS = ("-O3", "-fno-strict-aliasing", "-fno-math-errno", "-shared", "-fPIC")
# A compiler that does not know these builds something slower without them.
OPTIONAL_FLAGS = ("-march=native", "-fopenmp")
TIMEOUT = 120.0  # seconds for one run of the compiler

_forked = False


class NativeError(RuntimeError):
    """Native code is not to be had here; the message says why, in one line."""


def threads() -> int:
    """How many threads native code shall use: torch's number, or one in a forked process.

    GNU's OpenMP waits forever for the threads that a fork left behind.
    """
    return 1 if _forked else torch.get_num_threads()


def library(sources: tuple[Path, ...], defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The first of `sources` as a library; the others are what it includes.

    It is built on the first call on a machine and found again afterwards, for as long as sources,
    compiler and processor remain the same.

    Raises:
        NativeError: switched off by STATEFILM_NATIVE=0, no compiler, or the build failed.
    """
    if os.environ.get(SWITCH) == "0":
        raise NativeError(f"switched off by {SWITCH}=0")
    found = _load(sources, defines, os.environ.get("CC"), os.environ.get("PATH"))
    if isinstance(found, str):
        raise NativeError(found)
    return found


def folder() -> Path:
    """Where built libraries are kept, below $XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "statefilm" / "native"


@functools.cache
def _load(
    sources: tuple[Path, ...], defines: tuple[str, ...], *environment: str | None
) -> ctypes.CDLL | str:
    """The library, or why there is none: a failure is remembered too, not tried at each call."""
    try:
        return ctypes.CDLL(str(_built(sources, defines)))
    except (NativeError, OSError, subprocess.SubprocessError, RuntimeError) as error:
        return " ".join(str(error).split()) or type(error).__name__


def _built(sources: tuple[Path, ...], defines: tuple[str, ...]) -> Path:
    if sys.maxsize < 2**32 or sys.byteorder == "big":
        raise NativeError("needs a 64-bit little-endian processor")
    compiler = _compiler()
    described = _run([*compiler, "--version"]).stdout
    content = [source.read_bytes().decode() for source in sources]
    parts = [*content, *defines, *FLAGS, *OPTIONAL_FLAGS, *compiler, described, _processor()]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    target = folder() / f"{sources[0].parent.name}-{digest}.so"
    if not target.exists():
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _build(compiler, sources[0], defines, target)
    return target


def _build(compiler: list[str], source: Path, defines: tuple[str, ...], target: Path) -> None:
    """Build beside the target and move there in one step: another process may be doing the same."""
    first = ""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        output = Path(scratch) / target.name
        for chosen in itertools.product(*((flag, "") for flag in OPTIONAL_FLAGS)):
            flags = [*FLAGS, *filter(None, chosen), *(f"-D{define}" for define in defines)]
            done = _run([*compiler, *flags, str(source), "-o", str(output)])
            if done.returncode == 0:
                os.replace(output, target)
                return
            first = first or done.stderr or f"exit code {done.returncode}"
    raise NativeError(f"{' '.join(compiler)} failed: {first.strip()[:300]}")


def _compiler() -> list[str]:
    """The command of $CC, which may have several words, or the first compiler there is."""
    candidates = [shlex.split(os.environ.get("CC", ""))]
    if not candidates[0]:
        candidates = [["cc"], ["gcc"], ["clang"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    names = ", ".join(command[0] for command in candidates)
    raise NativeError(f"no C compiler: {names} not found")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
    )


def _processor() -> str:
    """What "native" stands for: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    keys = ("vendor_id", "cpu family", "model", "flags", "CPU part", "Features")
    named = {line for line in lines if line.split("\t")[0].strip(" :") in keys}
    return platform.machine() + "".join(sorted(named))


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
