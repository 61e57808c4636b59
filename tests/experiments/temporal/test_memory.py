"""The study of memory at toy size: its rows, its page, and input it refuses."""

import json
import math
from dataclasses import replace

import pytest
import torch

from statefilm.cli.main import run
from statefilm.errors import UsageError
from statefilm.evaluation.speed.timing import Protocol
from statefilm.experiments.temporal import (
    OneLayer,
    WholeUNet,
    measure_memory,
    write_memory_page,
)
from statefilm.experiments.temporal.arms import ARMS, Arm, matched, parameters_of
from statefilm.experiments.temporal.memory import PARAMETERS, WIDTH

CPU = torch.device("cpu")
PROTOCOL = Protocol(rounds=1, min_seconds=0)
NAMES = ["attention", "self-attention", "s6-bi"]


@pytest.fixture(scope="module")
def results():
    places = [OneLayer(16, 2), WholeUNet(side=4, multipliers=(1,))]
    return measure_memory(CPU, PROTOCOL, arms=NAMES, frames=[4, 2], subjects=places)


def test_every_layer_is_measured_at_every_length(results):
    places = {(row["subject"], row["comparison"]) for row in results.rows}
    assert len(places) == 4
    own = [row for row in results.rows if row["comparison"] == WIDTH]
    assert [row["frames"] for row in own[:6]] == [2, 2, 2, 4, 4, 4]
    for row in results.rows:
        assert row["forward_seconds"] > 0 and row["step_seconds"] > 0
        assert row["saved_bytes"] > 0 and row["training_peak_bytes"] > row["inference_peak_bytes"]


def test_attention_of_equal_width_has_the_published_heads(results):
    heads = {
        row["subject"]: row["options"]["heads"]
        for row in results.layers
        if row["comparison"] == WIDTH and row["arm"] == "attention"
    }
    assert heads == {OneLayer(16, 2).name: 2, WholeUNet(side=4).name: 4}


def test_equal_parameters_are_equal_and_what_cannot_be_is_left_out(results):
    for place in {row["subject"] for row in results.layers}:
        own = [
            row["parameters"]
            for row in results.layers
            if (row["subject"], row["comparison"]) == (place, PARAMETERS)
        ]
        assert len(own) == 2 and max(own) / min(own) < 1.05
    assert {row["arm"] for row in results.left_out} == {"self-attention"}


@pytest.mark.parametrize("name", [*ARMS])
def test_options_are_found_that_give_a_layer_the_size_of_another(name):
    widths = (32, 64)
    target = parameters_of(ARMS["s6-bi"], widths)
    found = matched(ARMS[name], widths, target)
    if name in ("self-attention", "gated-linear-attention"):
        assert found is None
    else:
        assert abs(parameters_of(found, widths) / target - 1) < 0.05
        assert {**found.options, **ARMS[name].options} == found.options
    assert matched(Arm("attention"), (64,), 4 * 64 * 64) is None


def test_what_takes_too_long_or_too_much_memory_is_left_out_and_still_counted():
    for protocol, why in (
        (replace(PROTOCOL, budget=1e-9), "would take about"),
        (replace(PROTOCOL, memory=1), "would need about"),
    ):
        found = measure_memory(
            CPU, protocol, arms=["attention"], frames=[2, 3], subjects=[OneLayer(16, 2)]
        )
        assert all(why in row["why"] for row in found.left_out) and found.left_out
        assert found.rows[-1]["step_seconds"] is None and found.rows[-1]["saved_bytes"] > 0


def test_the_page_holds_tables_plots_and_sentences(results, tmp_path):
    page = write_memory_page(results, tmp_path)
    text = page.read_text("utf-8")
    assert text.startswith("# Study: temporal-memory\n")
    assert text.count("### At equal ") == 4 and text.count("Training step, ms by frames:") == 4
    assert "self-attention: has no options" in text
    assert "bytes a frame stay within 5 %" in text.split("## Found")[1]
    assert "attention keeps more for its backward than s6-bi from" in text
    files = {file.name for file in (tmp_path / "temporal-memory").iterdir()}
    assert files == {"results.json", "plot-0.png", "plot-1.png"}
    read = json.loads((tmp_path / "temporal-memory" / "results.json").read_text("utf-8"))
    assert read["rows"] == results.rows and math.isfinite(read["layers"][0]["growth"])


def test_bad_input_is_named(capsys, tmp_path):
    for arguments, message in (
        ({"arms": ["s6"]}, "unknown arm 's6': did you mean"),
        ({"arms": ["hydra"]}, "leave out 'attention'"),
        ({"frames": [0, 4]}, "valid are numbers from 1"),
    ):
        with pytest.raises(UsageError, match=message):
            measure_memory(CPU, PROTOCOL, **arguments)
    for words, message in (
        (["--frames", "4,x"], "valid are different whole numbers from 1 on"),
        (["--arms", "attention,hidra"], "did you mean 'hydra'"),
    ):
        folder = tmp_path / "out"
        assert run(["experiment", "temporal-memory", *words, "-o", str(folder)]) == 2
        assert message in capsys.readouterr().err and not folder.exists()
    (folder / "temporal-memory").mkdir(parents=True)
    (folder / "temporal-memory" / "results.json").write_text("precious")
    assert run(["experiment", "temporal-memory", "-o", str(folder)]) == 2
    assert "results.json exists" in capsys.readouterr().err
