"""The race of the ops at toy size, and the length from which on attention is overtaken."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statefilm.evaluation.speed.floors import OpShape, Rates
from statefilm.evaluation.speed.ops import PASSES, crossover, measure_ops
from statefilm.evaluation.speed.timing import Protocol

SHAPE = OpShape(1, dim=32, head_dim=16, state_dim=16)


def measure(lengths=(16, 40), **protocol):
    return measure_ops(
        SHAPE,
        lengths,
        dtype=torch.float32,
        device=torch.device("cpu"),
        protocol=Protocol(rounds=2, min_seconds=0, **protocol),
        rates=Rates(1e9, 1e9),
    )


@given(
    power=st.floats(1.1, 3),
    factor=st.floats(0.01, 100),
    first=st.integers(2, 100),
    count=st.integers(2, 8),
)
def test_powers_of_the_length_cross_where_they_are_equal(power, factor, first, count):
    lengths = [first * 2**i for i in range(count)]
    exact = factor ** (1 / (power - 1))  # factor * n = n ** power
    found = crossover(lengths, [factor * n for n in lengths], [n**power for n in lengths])
    if exact < lengths[0] * (1 - 1e-9):
        assert found == 0
    elif lengths[0] * (1 + 1e-9) < exact < lengths[-1] * (1 - 1e-9):
        assert found == pytest.approx(exact)
    elif exact > lengths[-1] * (1 + 1e-9):
        assert found is None


def test_the_last_of_several_crossings_counts():
    # Ahead, behind, ahead: from the middle of the last step in logarithms.
    assert crossover([1, 4, 16], [1, 2, 1], [2, 1, 2]) == pytest.approx(math.sqrt(4 * 16))
    assert crossover([1, 4, 16], [2, 1, 2], [1, 2, 1]) is None
    assert crossover([], [], []) is None


def test_a_report_of_all_that_run_here():
    report = measure()
    names = {"quasiseparable", "quasiseparable chunked", "flip", "sdpa", "linear attention"}
    for name in PASSES:
        for length in (16, 40):
            rows = [r for r in report.rows if (r["pass"], r["length"]) == (name, length)]
            assert names <= {row["op"] for row in rows}
            base = next(row for row in rows if row["op"] == "quasiseparable")
            for row in rows:
                assert row["ratio"] == pytest.approx(row["seconds"] / base["seconds"])
                assert row["of_floor"] == pytest.approx(row["floor_seconds"] / row["seconds"])
                assert row["seconds_per_token"] == row["seconds"] / length
                assert row["peak_bytes"] > 0 and len(row["rounds"]) == 2
    data = json.loads(json.dumps(report.as_dict()))
    assert set(data) == {
        *("bench", "machine", "settings", "memory_counted", "rows", "left_out", "summary")
    }
    assert set(data["summary"]["crossover"]) == set(PASSES)
    assert max(data["summary"]["errors"]["quasiseparable chunked"].values()) < 1e-4


def test_the_table_holds_every_row_and_a_line_on_the_crossover():
    report = measure()
    table = report.table()
    assert sum(line.startswith(("| 16 ", "| 40 ")) for line in table.splitlines()) == len(
        report.rows
    )
    for name in PASSES:
        assert f"### {name}" in table and f"- {name}: " in table


@pytest.mark.parametrize(
    ("limit", "why"),
    [({"budget": 0.0}, "s a call, above 0 s"), ({"memory": 1}, "GiB, above")],
)
def test_what_would_take_too_much_is_left_out(limit, why):
    report = measure(**limit)
    assert {row["length"] for row in report.rows} == {16}  # the first is never estimated
    assert len(report.left_out) == len(report.rows)
    assert all(why in row["why"] and row["length"] == 40 for row in report.left_out)
    assert "- left out: sdpa forward at 40: about " in report.table()


def test_nothing_begins_after_the_deadline():
    report = measure(deadline=-math.inf)
    assert report.rows == []
    assert {row["why"] for row in report.left_out} == {"the time was used up"}
    assert "were not both measured" in report.table()
