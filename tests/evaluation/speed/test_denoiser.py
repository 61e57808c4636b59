"""One step of the tiny denoisers: rows, shares, depth cut to sets."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statefilm.evaluation.speed.denoiser import (
    FORWARD,
    TRAINING,
    cut,
    draw,
    forward,
    image_of_tokens,
    make_denoiser,
    measure_denoisers,
    on_meta,
    step_flops,
    with_text_read,
)
from statefilm.evaluation.speed.floors import Rates
from statefilm.evaluation.speed.parts import part_seconds
from statefilm.evaluation.speed.timing import Protocol
from statefilm.models import PRESETS
from statefilm.models.flops import token_grid

CPU = torch.device("cpu")


def measure(**options):
    protocol = Protocol(rounds=1, min_seconds=0, **options.pop("protocol", {}))
    return measure_denoisers(
        ["hth_tiny", "dit_tiny"],
        {"4 tokens": (1, 16, 16)},
        dtype=torch.float32,
        device=CPU,
        protocol=protocol,
        rates=Rates(1e9, 1e9),
        **options,
    )


def test_a_step_and_a_training_step_of_both():
    report = measure(guidance=True, backward=True)
    found = [(row["pass"], row["model"]) for row in report.rows]
    names = ("hth_tiny", "dit_tiny")
    assert found == [(name, model) for name in (FORWARD, TRAINING) for model in names]
    for row in report.rows:
        assert (row["tokens"], row["batch"], row["blocks"]) == (4, 2, 11)
        assert row["weight_bytes"] == 4 * row["parameters"]
        assert row["peak_bytes"] > 0
    hybrid, transformer = report.rows[:2]
    assert hybrid["ratio"] == 1
    assert transformer["ratio"] == transformer["seconds"] / hybrid["seconds"]
    common = {"cross-attention", "feed-forward", "other", "attention"}
    assert set(hybrid["parts"]) == common | {"hydra"} and set(transformer["parts"]) == common
    assert report.rows[2]["flops"] > 3 * hybrid["flops"] > 0  # training also reads the text
    data = json.loads(json.dumps(report.as_dict()))
    assert data["bench"] == "denoiser" and data["settings"]["guidance"]
    assert "### 4 tokens" in report.table()


def test_what_does_not_fit_or_comes_too_late_is_left_out():
    for protocol, why in (({"memory": 1}, "GiB"), ({"deadline": -math.inf}, "used up")):
        report = measure(protocol=protocol)
        assert report.rows == []
        assert all(why in row["why"] for row in report.left_out) and report.left_out


def test_random_weights_keep_float32_where_the_model_does_and_none_is_zero():
    model = make_denoiser("hth_tiny", torch.bfloat16, CPU)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["blocks.0.mixer.A_log"] == torch.float32
    assert dtypes["blocks.0.mixer.in_proj.weight"] == torch.bfloat16
    assert dtypes["timestep_embedder.linear_1.weight"] == torch.float32
    assert all(parameter.any() for parameter in model.parameters())
    assert torch.get_default_dtype() == torch.float32


def test_reading_the_text_before_the_step_changes_nothing():
    model = make_denoiser("hth_tiny", torch.float32, CPU)
    inputs = draw(model, (1, 16, 16), 2)
    torch.testing.assert_close(
        forward(model, with_text_read(model, inputs)), forward(model, inputs)
    )
    steps = (step_flops(model.config, (1, 16, 16), training=t) for t in (False, True))
    read, all_of_it = (sum(parts.values()) for parts in steps)
    assert all_of_it - read == 11 * 2 * 128 * 256 * 2 * 256


def test_parts_are_measured_by_hooks_that_do_not_stay():
    model = make_denoiser("hth_tiny", torch.float32, CPU)
    inputs = draw(model, (1, 16, 16), 1)
    ticks = iter(range(10**6))
    parts = part_seconds(
        model, lambda: forward(model, inputs), CPU, rounds=2, clock=lambda: next(ticks)
    )
    # By a clock that moves one tick at each look: one between the looks at a sublayer's ends.
    assert parts == {
        "cross-attention": 11,
        "hydra": 10,
        "attention": 1,
        "feed-forward": 11,
        "other": 2 * 33 + 1 - 33,
    }
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_sets_of_a_plan():
    plan = PRESETS["hth_5b"]["plan"]
    assert cut(plan, None) == plan and cut(plan, 3) == plan
    assert [block["mixer"] for block in cut(plan, 1)] == ["hydra"] * 10 + ["attention"]
    assert len(on_meta("dit_5b", 2).blocks) == 22
    with pytest.raises(ValueError, match="4 sets of a plan that has 3: valid is 1 to 3"):
        cut(plan, 4)


@given(st.integers(1, 10**6))
def test_an_image_of_so_many_tokens(tokens):
    latents = image_of_tokens(tokens, (1, 2, 2))
    frames, rows, columns = token_grid({"patch_size": (1, 2, 2)}, latents)
    assert frames == 1 and rows * columns == tokens and rows <= columns
