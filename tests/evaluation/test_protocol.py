"""The protocols on generators whose scores are known: the oracle, a blank one, partial ones."""

import json

import pytest
import torch
from PIL import Image

from statefilm.data.world.captions import parse
from statefilm.data.world.tasks import T2I_TASKS, T2V_TASKS
from statefilm.evaluation.world import evaluate_t2i, evaluate_t2v, oracle, read_png
from statefilm.evaluation.world.quality import QUALITY
from statefilm.evaluation.world.semantics import SEMANTICS


def blank(prompts, seeds):
    return torch.full((len(prompts), 3, 1, 64, 64), -0.9)


def colorblind(prompts, seeds):
    """Right but for the colours, which are those of a prompt without any."""
    groups = [parse(prompt).groups for prompt in prompts]
    return oracle([" and ".join(f"a {g.shape}" for g in gs) for gs in groups], seeds)


@pytest.fixture(scope="module")
def perfect():
    return evaluate_t2i(oracle, images_per_task=12, batch_size=7)


@pytest.fixture(scope="module")
def clips():
    return evaluate_t2v(
        lambda p, s: oracle(p, s, num_frames=9), clips=16, tasks=T2V_TASKS, batch_size=5
    )


def test_the_oracle_is_always_right(perfect):
    assert {name.split(".")[0] for name in perfect.metrics} == {*T2I_TASKS, "mean"}
    assert {metric.value for metric in perfect.metrics.values()} == {1.0}
    assert set(perfect.oracle.values()) == {1.0}
    assert perfect.oracle.keys() == perfect.metrics.keys()


def test_floors_are_those_of_chance(perfect):
    # A shuffled prompt fits by chance: 1 of 4 shapes, 1 of 6 pairs.
    assert perfect.metrics["single_object.strict"].floor == pytest.approx(1 / 4, abs=0.1)
    assert perfect.metrics["two_object.strict"].floor == pytest.approx(1 / 6, abs=0.1)
    assert perfect.metrics["color_attr.strict"].floor < 0.15


def test_intervals_and_counts(perfect):
    metric = perfect.metrics["counting.strict"]
    assert (metric.n, metric.high) == (12, 1.0)
    assert metric.low == pytest.approx(1 / (1 + 1.96**2 / 12), abs=1e-4)
    whole = perfect.metrics["mean.strict"]
    assert whole.n == 72 and metric.low < whole.low < 1.0


def test_seen_and_heldout_prompts_part(perfect):
    for task in ("colors", "position"):
        parts = [perfect.metrics[f"{task}.strict.{part}"].n for part in ("seen", "heldout")]
        assert min(parts) >= 1 and sum(parts) == perfect.metrics[f"{task}.strict"].n
    assert "counting.strict.heldout" not in perfect.metrics


def test_nothing_scores_nothing():
    results = evaluate_t2i(blank, images_per_task=4)
    assert {metric.value for metric in results.metrics.values()} == {0.0}
    assert {metric.floor for metric in results.metrics.values()} == {0.0}
    assert set(results.oracle.values()) == {1.0}


def test_pictures_of_nothing_stand_beside_the_figures(perfect, clips):
    assert perfect.blank.keys() == perfect.metrics.keys()
    assert {value for name, value in perfect.blank.items() if "soft" not in name} == {0.0}
    assert clips.blank.keys() == clips.metrics.keys()
    assert clips.blank["motion_class"] == clips.blank["instance_preservation"] == 0.0
    assert clips.blank["temporal_flickering"] == 1.0  # nothing flickers where nothing is
    assert clips.blank["total_score"] < 0.9


def test_things_of_the_trained_size_are_found_on_a_larger_canvas():
    def smaller(prompts, seeds):
        images = oracle(prompts, seeds, size=64)
        margin = torch.full((len(prompts), 3, 1, 160, 160), -0.9)
        margin[:] = images[..., :1, :1]
        margin[..., 48:112, 48:112] = images
        return margin

    tasks = ("single_object", "colors")
    found = [
        evaluate_t2i(smaller, images_per_task=12, tasks=tasks, zoom=zoom).metrics["mean.strict"]
        for zoom in (1.0, 2.5)
    ]
    assert found[1].value == 1.0 > found[0].value


def test_colors_alone_are_missed_when_colors_alone_are_wrong():
    tasks = ("two_object", "colors", "color_attr")
    results = evaluate_t2i(colorblind, images_per_task=32, tasks=tasks)
    value = {task: results.metrics[f"{task}.parity"].value for task in tasks}
    assert value["two_object"] == 1.0
    assert value["colors"] < 0.4 and value["color_attr"] < 0.2
    assert results.metrics["mean.parity"].value == pytest.approx(sum(value.values()) / 3)


def test_prompts_are_drawn_equally_often_with_seeds_of_their_own():
    asked, seen = [], []

    def record(prompts, seeds):
        asked.extend(zip(prompts, seeds, strict=True))
        assert len(prompts) <= 5
        return blank(prompts, seeds)

    def progress(done, total):
        seen.append((done, total))

    evaluate_t2i(
        record, images_per_task=9, tasks=["single_object"], seed=40, batch_size=5, progress=progress
    )
    prompts, seeds = zip(*asked, strict=True)
    assert {prompt: prompts.count(prompt) for prompt in prompts} == dict.fromkeys(
        ("a circle", "a square", "a triangle", "a cross"), 3
    )
    assert list(seeds) == list(range(40, 52))
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_a_small_count_spreads_over_the_list():
    asked = []
    evaluate_t2i(lambda p, s: asked.extend(p) or blank(p, s), images_per_task=8, tasks=["colors"])
    assert len(set(asked)) == 8
    assert {parse(prompt).groups[0].shape for prompt in asked} == {
        "circle", "square", "triangle", "cross",
    }  # fmt: skip


def test_sizes_that_the_oracle_cannot_have():
    """Pictures larger than a canvas of the world stand beside its largest canvas."""

    def enlarged(prompts, seeds):
        frames = oracle(prompts, seeds, size=128)
        return frames.repeat_interleave(3, dim=3).repeat_interleave(3, dim=4)

    results = evaluate_t2i(enlarged, images_per_task=2, tasks=["colors"])
    assert results.metrics["colors.strict"].value == results.oracle["colors.strict"] == 1.0


def test_the_oracle_of_clips_is_always_right(clips):
    assert {"motion_class", "video_color", "video_shape", "video_all"} <= clips.metrics.keys()
    for name in (*SEMANTICS, "quality_score", "semantic_score", "total_score"):
        assert clips.metrics[name].value == pytest.approx(1.0), name
    assert set(clips.details["t2v"]["normalised"]) == {*SEMANTICS, *QUALITY}
    assert clips.metrics["motion_class.orbit"].n == 2
    assert clips.metrics["motion_class"].floor < 0.4
    assert clips.metrics["overall_consistency"].n == 32
    for name, metric in clips.metrics.items():
        assert metric.value == pytest.approx(clips.oracle[name]), name


def test_reversed_clips_lose_what_has_a_direction_in_time():
    asked = []

    def backwards(prompts, seeds):
        asked.extend(parse(prompt).groups[0].motion for prompt in prompts)
        return oracle(prompts, seeds, num_frames=9).flip(2)

    turned = evaluate_t2v(backwards, clips=16, tasks=T2V_TASKS).metrics
    # Of eight motions a bounce alone is the same backwards.
    assert turned["motion_class"].value == 1 / 8
    assert turned["motion_class.bounce"].value == 1.0
    assert turned["video_color"].value == 1.0
    assert turned["video_all"].value == turned["motion_class"].value
    there_and_back = [{"left", "right"}, {"up", "down"}]
    events = [set(motion) in there_and_back for motion in asked if len(motion) == 2]
    assert turned["event_order"].value == sum(events) / 4 < 1
    assert turned["dynamic_attribute"].value == 0
    assert turned["spatial_relationship"].value == 1.0
    assert turned["quality_score"].value == pytest.approx(1.0)
    assert turned["semantic_score"].value < 0.8


def test_noise_has_no_quality_and_frozen_clips_have_most_of_it():
    def noise(prompts, seeds):
        return 2 * torch.rand(len(prompts), 3, 9, 64, 64) - 1

    def frozen(prompts, seeds):
        return oracle(prompts, seeds, num_frames=9)[:, :, :1].expand(-1, -1, 9, -1, -1)

    assert evaluate_t2v(noise, clips=8).metrics["quality_score"].value < 0.05
    results = evaluate_t2v(frozen, clips=8)
    assert results.metrics["dynamic_degree"].value == 0
    assert results.metrics["quality_score"].value == pytest.approx(5 / 5.5, abs=0.01)
    assert "total_score" not in results.metrics


def test_the_best_and_worst_samples_are_kept_in_their_order():
    def every_other(prompts, seeds):
        frames = oracle(prompts, seeds)
        frames[[seed % 2 == 1 for seed in seeds]] = -0.9
        return frames

    samples = evaluate_t2i(every_other, images_per_task=20, tasks=["colors"], batch_size=3).samples
    best, worst = samples["colors.best"], samples["colors.worst"]
    assert [sample.seed for sample in best] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert {(sample.strict, sample.soft) for sample in best} == {(1.0, 1.0)}
    assert [sample.seed for sample in worst] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert {(sample.strict, sample.soft) for sample in worst} == {(0.0, 0.0)}
    assert best[0].frames.shape == (1, 3, 64, 64)


def test_what_is_nearly_right_is_nearly_1_in_every_dimension():
    """Shuffled prompts ask for as many things: they are no floor of their preservation."""

    def failing(prompts, seeds):
        frames = oracle(prompts, seeds, num_frames=9)
        frames[[number for number, seed in enumerate(seeds) if seed % 16 == 5]] = -1
        return frames

    results = evaluate_t2v(failing, clips=64, tasks=T2V_TASKS)
    unit = results.details["t2v"]["normalised"]
    assert results.metrics["instance_preservation"].floor == 0
    assert {name: round(unit[name], 2) for name in SEMANTICS if not 0.6 < unit[name] < 1} == {}


def test_means_of_the_splits_are_over_the_same_tasks(perfect):
    both = [name for name in T2I_TASKS if f"{name}.strict.heldout" in perfect.metrics]
    assert set(both) < set(T2I_TASKS)
    for part in ("seen", "heldout"):
        count = sum(perfect.metrics[f"{name}.strict.{part}"].n for name in both)
        assert perfect.metrics[f"mean.strict.{part}"].n == count


def test_a_split_has_no_mean_where_no_task_has_both():
    results = evaluate_t2i(oracle, images_per_task=4, tasks=["single_object", "counting"])
    assert {name for name in results.metrics if name.startswith("mean.")} == {
        "mean.strict",
        "mean.parity",
        "mean.soft",
    }


def test_results_are_written(tmp_path, perfect, clips):
    results = perfect | clips
    path = results.write(tmp_path / "deep" / "eval")
    content = json.loads(path.read_text("utf-8"))
    assert path.name == "results.json"
    assert content["metrics"].keys() == results.metrics.keys()
    for entry in content["metrics"].values():
        assert entry.keys() == {"value", "low", "high", "n", "floor"}
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
    assert content["details"]["t2i"] == {"images": 72, "seed": 0}
    clips = content["details"]["t2v"]
    assert (clips["clips"], clips["seed"]) == (16 + 4 * 4, 0)
    assert set(clips["normalised"].values()) == {1.0}
    assert results.as_dict().items() <= content.items()
    with Image.open(path.with_name("motion_class.best.png")) as image:
        assert image.size == (4 * (5 * 65 - 1 + 2) - 2, 2 * 66 - 2)
    grid = path.with_name("colors.best.png")
    prompts = content["samples"][grid.name]
    assert len(prompts) == 8
    with Image.open(grid) as image:
        assert image.size == (4 * 66 - 2, 2 * 66 - 2)
        first = image.crop((0, 0, 64, 64))
    first.save(tmp_path / "first.png")
    (thing,) = read_png(tmp_path / "first.png").objects
    (group,) = parse(prompts[0]).groups
    assert (thing.color, thing.shape) == (group.color, group.shape)


def test_table_has_a_line_for_each_figure(perfect):
    head, *lines = perfect.table().splitlines()
    assert head.split()[:2] == ["metric", "value"]
    assert [line.split()[0] for line in lines] == [
        name for name in perfect.metrics if not name.endswith(("seen", "heldout"))
    ]
    assert len({len(line) for line in [head, *lines]}) == 1


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(3, 3, 1, 64, 64), r"\[4, 3, T, H, W\]"),
        (torch.zeros(4, 3, 64, 64), r"\[4, 3, 64, 64\]"),
        (torch.zeros(4, 3, 5, 64, 64), "5 frames"),
    ],
)
def test_bad_frames(frames, message):
    with pytest.raises(ValueError, match=message):
        evaluate_t2i(lambda p, s: frames, images_per_task=4, tasks=["single_object"])


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown task 'colours'"):
        evaluate_t2i(blank, tasks=["colours"])
    with pytest.raises(ValueError, match="unknown task 'colors': valid are motion_class, multiple"):
        evaluate_t2v(blank, tasks=["colors"])
    with pytest.raises(ValueError, match="0 pictures"):
        evaluate_t2i(blank, images_per_task=0)


def test_prompts_can_be_kept_to_some_shapes():
    asked: list[str] = []

    def generate(prompts, seeds):
        asked.extend(prompts)
        return oracle(prompts, seeds, size=64)

    results = evaluate_t2i(
        generate, images_per_task=4, tasks=["two_object"], shapes=["circle", "square"]
    )
    assert results.metrics["two_object.strict"].value == 1
    assert asked and all("triangle" not in text and "cross" not in text for text in asked)
    with pytest.raises(ValueError, match="unknown shape 'star': valid are circle, square"):
        evaluate_t2i(generate, shapes=["star"])
