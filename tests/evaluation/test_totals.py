"""The weighing of dimensions: known totals, normalisation, intervals."""

import pytest

from statefilm.evaluation.world.totals import QUALITY_OF, normalised, total_scores

SEMANTICS = ("color", "event_order")


def clips(count, quality, **semantics):
    return [dict.fromkeys(QUALITY_OF, quality) | semantics for _ in range(count)]


def bounds(value):
    return dict.fromkeys((*QUALITY_OF, *SEMANTICS), value)


@pytest.mark.parametrize(
    ("value", "floor", "oracle", "expected"),
    [(0.5, 0.2, 0.8, 0.5), (0.1, 0.2, 0.8, 0), (0.9, 0.2, 0.8, 1), (1, 1, 1, 1), (0, 1, 1, 0)],
)
def test_normalised(value, floor, oracle, expected):
    assert normalised(value, floor, oracle) == pytest.approx(expected)


def test_known_totals():
    tasks = [clips(4, 0.75, color=0.5), [{"event_order": 1.0}] * 2]
    found = total_scores(tasks, bounds(0.5), bounds(1.0), SEMANTICS)
    assert found["quality_score"].value == pytest.approx(0.5)
    assert found["semantic_score"].value == pytest.approx((0 + 1) / 2)
    assert found["total_score"].value == pytest.approx((4 * 0.5 + 0.5) / 5)
    assert {metric.n for metric in found.values()} == {6}


def test_the_dynamic_degree_weighs_half():
    still = [{**clip, "dynamic_degree": 0.0} for clip in clips(3, 1.0)]
    found = total_scores([still], bounds(0.0), bounds(1.0), SEMANTICS)
    assert found.keys() == {"quality_score"}  # a dimension of the semantic score is missing
    assert found["quality_score"].value == pytest.approx(5 / 5.5)


def test_intervals_hold_the_value_and_shrink_with_more_clips():
    widths = []
    for count in (10, 160):
        half = clips(count // 2, 1.0) + clips(count // 2, 0.0)
        metric = total_scores([half], bounds(0.0), bounds(1.0), SEMANTICS)["quality_score"]
        assert metric.value == pytest.approx(0.5)
        assert metric.low < metric.value < metric.high
        widths.append(metric.high - metric.low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)
