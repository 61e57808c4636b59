"""The weights that come with the package: small enough, and what they are said to know."""

import pytest
import torch

from statefilm.data.worlds import find_world
from statefilm.pipelines import load_pipeline, resolve_model
from statefilm.pipelines.sampling import seed_generators

MEGABYTES = {"world-64": 40, "maze-32": 15}


@pytest.mark.parametrize("name", MEGABYTES)
def test_weights_keep_within_their_limit(name):
    files = [file for file in resolve_model(name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MEGABYTES[name] * 1e6


def test_the_walk_shows_walls_of_the_color_asked_for():
    maze = find_world("maze")
    pipe = load_pipeline("maze-32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    asked = [*range(6), *range(6)]
    clips = pipe(
        class_labels=asked,
        num_frames=16,
        num_inference_steps=32,
        sampler="ddim",
        generator=seed_generators(0, len(asked)),
        output_type="latent",
    ).frames
    readings = maze.read(clips.float().clamp(-1, 1))
    shown = [maze.label_of(reading) for reading in readings]
    # By chance it would be 2 of 12; real clips show their main color in 86 of 100.
    assert sum(a == b for a, b in zip(shown, asked, strict=True)) >= 7
    views = [verdict["views"] for verdict in maze.verdicts(readings)]
    assert torch.tensor(views).mean() > 0.9
