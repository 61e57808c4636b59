"""Where samples go: files, folders and patterns."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statefilm.cli.errors import CommandError
from statefilm.cli.outputs import check_writable, expand, plan, refuse_existing, slug

TWO = (["a red circle", "b"], [7, 8])
ONE = (["a red circle"], [7])


@pytest.mark.parametrize(
    ("output", "samples", "expected"),
    [
        (None, ONE, ["outputs/a-red-circle_7.png"]),
        (None, TWO, ["outputs/0000_a-red-circle_7.png", "outputs/0001_b_8.png"]),
        ("x.png", ONE, ["x.png"]),
        ("x.PNG", ONE, ["x.PNG"]),
        ("x.png", TWO, ["x_0.png", "x_1.png"]),
        ("deep/folder", ONE, ["deep/folder/a-red-circle_7.png"]),
        ("v1.2-final/", ONE, ["v1.2-final/a-red-circle_7.png"]),
        ("out_{i:3}_{seed}.png", TWO, ["out_000_7.png", "out_001_8.png"]),
        ("{prompt}/{i}", TWO, ["a-red-circle/0.png", "b/1.png"]),
    ],
)
def test_plan(output, samples, expected):
    assert plan(output, ".png", *samples) == [Path(path) for path in expected]


def test_an_existing_folder_is_one_whatever_its_name(tmp_path):
    (tmp_path / "a.b").mkdir()
    assert plan(str(tmp_path / "a.b"), ".png", *ONE)[0].parent == tmp_path / "a.b"


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("x.jpg", "does not end in .png"),
        ("{nme}.png", "unknown field {nme}"),
        ("{seed.real}.png", "unknown field {seed.real}"),
        ("{}.png", "unknown field {}"),
        ("{prompt}.png", "several samples one name"),
    ],
)
def test_patterns_that_cannot_be(output, says):
    with pytest.raises(CommandError) as caught:
        plan(output, ".png", ["a", "a"], [7, 8])
    assert says in str(caught.value)


@given(st.text(), st.integers(0, 2**63 - 1))
def test_a_prompt_never_leaves_its_folder(prompt, seed):
    path = Path("folder") / expand("{prompt}_{seed}.png", i=0, seed=seed, prompt=prompt)
    assert path.parent == Path("folder")
    assert os.sep not in slug(prompt) and not slug(prompt).startswith(".")
    assert len(path.name.encode()) < 256


def test_refuse_existing(tmp_path):
    (tmp_path / "file").touch()
    refuse_existing([tmp_path / "new", tmp_path / "deep" / "new"])
    with pytest.raises(CommandError, match=r"file exists \(and 1 more\)"):
        refuse_existing([tmp_path / "new", tmp_path / "file", tmp_path])


def test_check_writable(tmp_path):
    (tmp_path / "file").touch()
    check_writable([tmp_path / "new", tmp_path / "deep" / "new", tmp_path / "file"])
    with pytest.raises(CommandError, match="is not a folder"):
        check_writable([tmp_path / "new", tmp_path / "file" / "new"])
