"""Building C at run time: the cache, what stands in the way of it, and several builders at once."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from statefilm.ops import native

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler named cc")


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Load a function `answer` that returns what one asks for, from a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv(native.SWITCH, raising=False)
    source = tmp_path / "answer.c"

    def run(answer: int = 42, define: str = "UNUSED") -> int:
        source.write_text(f"int answer(void) {{ return {answer}; }}\n")
        native._load.cache_clear()
        return native.library((source,), (define,)).answer()

    yield run
    native._load.cache_clear()


def compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_library_is_built_once_for_each_source_and_definition(build):
    assert build() == 42
    (file,) = native.folder().iterdir()
    before = file.stat()
    assert build() == 42
    assert list(native.folder().iterdir()) == [file]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert build(43) == 43
    assert build(43, "OTHER") == 43
    assert len(list(native.folder().iterdir())) == 3


def test_a_compiler_that_fails_is_the_reason(build, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", compiler(tmp_path / "broken", "echo 'it is broken' >&2; exit 1"))
    with pytest.raises(native.NativeError, match=r"broken failed: it is broken$"):
        build()
    assert list(native.folder().iterdir()) == []


def test_a_library_that_does_not_load_is_the_reason(build, tmp_path, monkeypatch):
    script = 'while [ "$1" != -o ]; do shift || exit; done; echo nonsense > "$2"'
    monkeypatch.setenv("CC", compiler(tmp_path / "odd", f'[ "$1" = --version ] || {{ {script}; }}'))
    with pytest.raises(native.NativeError, match=r"\.so"):
        build()


def test_no_compiler_is_the_reason(build, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(native.NativeError, match="no C compiler: cc, gcc, clang not found"):
        build()
    monkeypatch.setenv("CC", "tcc-9 -m64")
    with pytest.raises(native.NativeError, match="no C compiler: tcc-9 not found"):
        build()


def test_no_place_for_the_cache_is_the_reason(build, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(native.NativeError, match="Not a directory"):
        build()


def test_it_can_be_switched_off(build, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    with pytest.raises(native.NativeError, match="switched off by STATEFILM_NATIVE=0"):
        build()


@pytest.mark.parametrize("unknown", native.OPTIONAL_FLAGS)
def test_a_compiler_without_an_optional_flag_will_do(build, tmp_path, monkeypatch, unknown):
    refuse = f'for a in "$@"; do [ "$a" = {unknown} ] && exit 1; done; exec cc "$@"'
    monkeypatch.setenv("CC", compiler(tmp_path / "plain", refuse))
    assert build() == 42


def test_several_builders_do_not_clash(build, tmp_path):
    assert build() == 42
    shutil.rmtree(native.folder())
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda _: native._built((tmp_path / "answer.c",), ()), range(8)))
    assert list(native.folder().iterdir()) == [built[0]]
    assert len(set(built)) == 1
