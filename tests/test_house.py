"""The rules of the house that hold for every file: what it says, imports, and never does."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "statefilm"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TORCH_ONLY = ("ops", "scans", "mixers")

RUNS_CODE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FETCHES = {"aiohttp", "ftplib", "httpx", "requests", "urllib", "urllib3"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "torch.load", "torch.hub.load", "np.load"}


def modules(tree):
    """Full names of all modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.fixture(params=SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def source(request):
    return request.param


def test_first_line_says_what_lives_there(source):
    first = source.read_text(encoding="utf-8").split("\n", 1)[0]
    assert first.startswith('"""')
    assert len(first) > 20


def test_nothing_is_run_from_a_file_or_fetched(source):
    tree = parse(source)
    roots = {name.split(".")[0] for name in modules(tree)}
    assert not roots & (RUNS_CODE | FETCHES)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & FORBIDDEN_CALLS
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert "trust_remote_code" not in keywords


@pytest.mark.parametrize("room", TORCH_ONLY)
def test_lowest_floors_stand_on_torch_alone(room):
    own = tuple(f"statefilm.{name}" for name in (*TORCH_ONLY, "errors"))
    for path in (PACKAGE / room).rglob("*.py"):
        for name in modules(parse(path)):
            root = name.split(".")[0]
            allowed = root in sys.stdlib_module_names or root in ("torch", "triton")
            assert allowed or name.startswith(own), f"{path.name} imports {name}"


def test_wheel_holds_all_that_the_package_reads(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tree / "src", ignore=ignore)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)

    (wheel,) = tree.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("statefilm/")}
    written = {path for path in (tree / "src" / "statefilm").rglob("*") if path.is_file()}
    assert packed == {path.relative_to(tree / "src").as_posix() for path in written}
