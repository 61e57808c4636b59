"""Runs of the shipped smoke recipes, in a folder of their own."""

import json
import logging
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from statefilm.training import Trainer, load_recipe

TINY = [
    "samples.every_steps=0",
    "model.overrides.plan=[{mixer: hydra, image_scan: H, video_scan: H}]",
]


def tiny_recipe(*changes):
    """The image recipe with one block: the quickest denoiser there is."""
    return load_recipe("smoke_world_t2i", [*TINY, *changes])


def train(recipe, folder, resume="auto"):
    return Trainer(recipe, folder, device="cpu", quiet=True).fit(resume)


def metrics(folder):
    """The logged lines, without what depends on the clock."""
    lines = (folder / "logs" / "metrics.jsonl").read_text("utf-8").splitlines()
    clock = ("seconds", "samples_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def weights(folder, step):
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    return {
        f"{part}/{name}": tensor
        for part in ("model", "ema", "optimizer")
        for name, tensor in load_file(checkpoint / f"{part}.safetensors").items()
    }


def assert_same_run(first, second, step):
    assert metrics(first) == metrics(second)
    one, two = weights(first, step), weights(second, step)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory):
    """The working folder with two steps of the recipes that others start from, in `runs`."""
    folder = tmp_path_factory.mktemp("smoke")
    with chdir(folder):
        stages = ("t2i", "t2v", "joint", "refine", "text", "bind", "finish", "order", "pairs")
        for stage in stages:
            name = f"smoke_world_{stage}"
            train(load_recipe(name, ["steps=2", "samples.every_steps=0"]), Path("runs") / name)
    return folder


@pytest.fixture
def warnings_of(caplog):
    """The warnings that were logged so far."""
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]
