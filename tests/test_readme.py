"""The README's commands and Python are run as they stand there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

import statefilm
from statefilm.cli.main import run

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
RECIPES = Path(statefilm.__file__).parent / "recipes"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def commands():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("statefilm ")]


def test_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECIPES / "smoke_world_t2i.yaml", "my_recipe.yaml")
    Path("pictures").mkdir()
    for number in range(12):
        Image.new("RGB", (70 + number, 64), (20 * number, 90, 40)).save(f"pictures/{number}.png")
        Path(f"pictures/{number}.txt").write_text(f"a plain tile, number {number}")
    assert {command[0] for command in commands()} == {"image", "video", "train", "data"}
    for command in commands():
        # Hours of training are only checked; all else runs whole.
        long = command[0] == "train" and not command[1].startswith("smoke_")
        assert run([*command, "--dry-run"] if long else command) == 0, command


@pytest.mark.parametrize("block", blocks("python"), ids=["pipeline", "layer"])
def test_python_runs(block):
    exec(block, {})


def test_every_command_is_listed():
    from statefilm.cli.main import app

    table = set(re.findall(r"^\| `statefilm (\w+)", README, flags=re.MULTILINE))
    groups = {group.name for group in app.registered_groups}
    assert table == groups | {command.name for command in app.registered_commands}


def test_every_name_is_listed():
    from statefilm.mixers import MIXERS
    from statefilm.models import PRESETS, UNET_PRESETS
    from statefilm.scans import SCANS

    rows = "\n".join(line for line in README.splitlines() if line.startswith("|"))
    listed = set(re.findall(r"`([^`]+)`", rows))
    assert {*MIXERS, *PRESETS, *UNET_PRESETS, *SCANS} <= listed
