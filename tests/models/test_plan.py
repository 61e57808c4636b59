"""Plans: the published layout, and the change from images to videos."""

import pytest

from statefilm.models import attention_plan, hybrid_plan, to_video
from statefilm.models.plan import add_temporal, mixed_plan


def test_published_layout_is_three_sets_of_ten_and_one():
    plan = hybrid_plan()
    assert len(plan) == 33
    assert [i for i, b in enumerate(plan) if b["mixer"] == "attention"] == [10, 21, 32]
    assert [b["image_scan"] for b in plan[:4]] == ["H", "V", "H", "V"]
    assert all(b["image_scan"] == b["video_scan"] for b in plan)


@pytest.mark.parametrize(("place", "index"), [("first", 0), ("middle", 5), ("last", 10)])
def test_place_of_the_attention_block(place, index):
    mixers = [b["mixer"] for b in hybrid_plan(1, attention=place)]
    assert mixers.index("attention") == index
    assert len(mixers) == 11


def test_scans_go_on_alternating_across_sets():
    scans = [b["image_scan"] for b in hybrid_plan(2, 3) if b["mixer"] == "hydra"]
    assert scans == ["H", "V", "H", "V", "H", "V"]


@pytest.mark.parametrize("placement", ["spread", "first", "last"])
def test_four_of_ten_turn_temporal_major_in_every_set(placement):
    plan = hybrid_plan()
    video = to_video(plan, placement=placement)
    assert [b["mixer"] for b in video] == [b["mixer"] for b in plan]
    assert [b["image_scan"] for b in video] == [b["image_scan"] for b in plan]
    for start in (0, 11, 22):
        scans = [b["video_scan"] for b in video[start : start + 11]]
        assert sorted(s for s in scans if s[0] == "T") == ["TH", "TH", "TV", "TV"]
        turned = [i for i, s in enumerate(scans) if s[0] == "T"]
        if placement == "first":
            assert turned == [0, 1, 2, 3]
        elif placement == "last":
            assert turned == [6, 7, 8, 9]
        else:
            assert turned == [2, 3, 6, 7]


@pytest.mark.parametrize(("fraction", "count"), [(0, 0), (0.3, 3), (1, 10)])
def test_any_fraction(fraction, count):
    video = to_video(hybrid_plan(1), fraction)
    assert sum(b["video_scan"][0] == "T" for b in video) == count


@pytest.mark.parametrize("placement", ["spread", "first", "last"])
@pytest.mark.parametrize("blocks", [3, 5, 9, 11])
def test_as_many_turn_as_were_asked_for(blocks, placement):
    """Also where the last pair of neighbours has one block only."""
    plan = mixed_plan(blocks, 0)
    for count in range(blocks + 1):
        video = to_video(plan, count / blocks, placement=placement)
        assert sum(b["video_scan"][0] == "T" for b in video) == count


def test_a_video_plan_is_planned_anew():
    video = to_video(hybrid_plan(1), 1.0)
    assert to_video(video, 0.4) == to_video(hybrid_plan(1), 0.4)


def test_attention_plan_has_no_block_to_turn():
    assert to_video(attention_plan(3), 1.0) == attention_plan(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hybrid_plan(attention="top"), "'top'"),
        (lambda: hybrid_plan(0), "0 x 10"),
        (lambda: hybrid_plan(scans=("X",)), "'X'"),
        (lambda: to_video(hybrid_plan(), 1.5), "1.5"),
        (lambda: to_video(hybrid_plan(), placement="middle"), "'middle'"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mixed_plans_spread_their_attention_blocks():
    for attention in range(12):
        plan = mixed_plan(11, attention)
        mixers = [block["mixer"] for block in plan]
        assert len(mixers) == 11 and mixers.count("attention") == attention
        assert not attention or mixers[-1] == "attention"
        scans = [b["image_scan"] for b in plan if b["mixer"] == "hydra"]
        assert scans == ["H", "V", "H", "V", "H", "V", "H", "V", "H", "V", "H"][: 11 - attention]
    assert mixed_plan(11, 1) == hybrid_plan(1) and mixed_plan(11, 11) == attention_plan(11)
    assert [b["mixer"] for b in mixed_plan(4, 2)] == ["hydra", "attention"] * 2
    with pytest.raises(ValueError, match="5 attention blocks do not fit a depth of 4"):
        mixed_plan(4, 5)


def test_new_temporal_blocks_are_spread_and_take_turns():
    plan = hybrid_plan(1)
    longer, places = add_temporal(plan, 4)
    assert places == [1, 5, 8, 12] and len(longer) == 15
    assert [longer[place]["video_scan"] for place in places] == ["TH", "TV", "TH", "TV"]
    assert [longer[place]["image_scan"] for place in places] == ["H", "V", "H", "V"]
    assert {longer[place]["mixer"] for place in places} == {"hydra"}
    assert [block for place, block in enumerate(longer) if place not in places] == plan
    for same in (plan, attention_plan(3)):
        assert add_temporal(same, 0) == (same, [])


@pytest.mark.parametrize(
    ("plan", "count", "says"),
    [(hybrid_plan(1), 12, "12 added"), (attention_plan(3), 1, "no state-space block")],
)
def test_new_blocks_that_do_not_fit_are_refused(plan, count, says):
    with pytest.raises(ValueError, match=says):
        add_temporal(plan, count)
