"""The prompt lists of the benchmark and the files that hold them."""

from collections import Counter

import pytest

from statefilm.data.world import parse
from statefilm.data.world.sample import MOVING
from statefilm.data.world.scene import COLORS, SHAPES
from statefilm.data.world.tasks import LISTS, T2I_TASKS, T2V_TASKS, load_prompts, prompt_file


@pytest.mark.parametrize("name", LISTS)
def test_the_file_is_what_the_generator_makes(name):
    assert load_prompts(name) == LISTS[name]()
    assert len(load_prompts(name)) == len(prompt_file(name).read_text().splitlines())


def test_six_tasks_have_their_sizes():
    prompts = load_prompts("t2i")
    counts = Counter(prompt["tag"] for prompt in prompts)
    assert [counts[task] for task in T2I_TASKS] == [4, 12, 12, 32, 48, 100]
    assert sum(counts.values()) == 208
    assert len({prompt["prompt"] for prompt in prompts}) == 208


@pytest.mark.parametrize("name", LISTS)
def test_requirements_say_what_the_prompt_says(name):
    for item in load_prompts(name):
        assert list(item) == ["tag", "include", "exclude", "prompt"]
        description = parse(item["prompt"])
        groups = description.groups if description.relation is None else description.groups[::-1]
        assert [
            (e["class"], e["count"], e.get("color"), e.get("motion")) for e in item["include"]
        ] == [(g.shape, g.count, g.color, g.motion[0] if g.motion else None) for g in groups]
        relations = [e["position"] for e in item["include"] if "position" in e]
        assert relations == ([] if description.relation is None else [[description.relation, 0]])
        expected = [{"class": g.shape, "count": g.count + 1} for g in groups]
        assert item["exclude"] == (expected if item["tag"] == "counting" else [])


def test_examples_of_each_task():
    by_prompt = {item["prompt"]: item for item in load_prompts("t2i")}
    assert by_prompt["three circles"]["exclude"] == [{"class": "circle", "count": 4}]
    assert by_prompt["a circle left of a square"]["include"] == [
        {"class": "square", "count": 1},
        {"class": "circle", "count": 1, "position": ["left of", 0]},
    ]
    assert {"a circle", "a circle and a square", "a red circle"} <= set(by_prompt)


def test_attributes_differ_between_the_two_things():
    for item in load_prompts("t2i"):
        if item["tag"] == "color_attr":
            first, second = item["include"]
            assert first["class"] != second["class"]
            assert first["color"] != second["color"]


def test_motion_class_is_balanced():
    entries = [item["include"][0] for item in load_prompts("t2v")]
    assert len(entries) == 128
    assert Counter(e["motion"] for e in entries) == dict.fromkeys(MOVING, 16)
    assert Counter(e["color"] for e in entries) == dict.fromkeys(COLORS, 16)
    assert Counter(e["class"] for e in entries) == dict.fromkeys(SHAPES, 32)


def test_unknown_list_is_named():
    with pytest.raises(ValueError, match="'t2x'"):
        load_prompts("t2x")


def test_the_other_tasks_of_clips_have_their_sizes_and_any_stretch_is_mixed():
    prompts = load_prompts("t2v_dimensions")
    counts = Counter(prompt["tag"] for prompt in prompts)
    assert [counts[task] for task in T2V_TASKS[1:]] == [32, 48, 48, 32]
    assert len({prompt["prompt"] for prompt in prompts}) == 160
    events = [p["include"][0] for p in prompts if p["tag"] == "event_order"]
    assert len({(one["motion"], one["then"]) for one in events}) == 12
    assert len({(one["motion"], one["then"]) for one in events[::4]}) > 5
    turns = [p["include"][0] for p in prompts if p["tag"] == "dynamic_attribute"]
    assert all(one["color"] != one["becomes"] for one in turns)
