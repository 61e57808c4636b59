"""The scripts of `benchmarks/` at toy size: each part runs, and a broken one stops no other."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from statefilm.data.world.captions import parse
from statefilm.data.world.render import render
from statefilm.data.world.scene import Scene, Thing
from statefilm.evaluation.speed import machine
from statefilm.pipelines.media import save_mp4

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Load a script, with small probes of the machine."""
    monkeypatch.setattr(machine, "MATMUL_SIZES", (16,))
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 1 << 10})

    def load(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(__import__("sys").modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_cpu_tables(script, tmp_path):
    cpu_tables = script("cpu_tables")
    assert cpu_tables.main([str(tmp_path), "--tiny", "--threads", "1"]) == 0
    tables = (tmp_path / "tables.md").read_text()
    for name in cpu_tables.TINY:
        assert f"## {name}\n" in tables and (tmp_path / name / "results.json").is_file()
    assert set(cpu_tables.TINY) <= set(cpu_tables.PARTS)
    kept = (tmp_path / "generate" / "results.json").read_bytes()
    assert cpu_tables.main([str(tmp_path), "--tiny", "--parts", "ops-float32"]) == 0
    again = (tmp_path / "tables.md").read_text()
    assert [again.count(f"## {name}\n") for name in cpu_tables.TINY] == [1] * 4
    assert (tmp_path / "generate" / "results.json").read_bytes() == kept


def test_cpu_studies(script, tmp_path):
    cpu_studies = script("cpu_studies")
    assert cpu_studies.main([str(tmp_path), "--tiny", "--threads", "1"]) == 0
    tables = (tmp_path / "tables.md").read_text()
    for name in cpu_studies.PARTS:
        assert f"## {name}\n" in tables
    assert "| hth_tiny | attention" in tables


def test_data_loading(script, tmp_path, capsys):
    assert script("data_loading").main([str(tmp_path), "--tiny"]) == 0
    table = (tmp_path / "tables.md").read_text()
    assert all(
        f"| {name} " in table for name in ("cached latents", "PNG files", "the world, drawn")
    )


def test_training_curves(script, tmp_path, capsys):
    runs = [tmp_path / "runs" / name for name in ("first", "second")]
    for run, kinds in zip(runs, (("image",), ("image", "video")), strict=True):
        (run / "logs").mkdir(parents=True)
        lines = [
            {"step": n, "samples": 4 * n, "seconds": 60 * n, "loss": 1 / n}
            | {f"loss_{kind}": 1 / n for kind in kinds}
            for n in (1, 2, 4)
        ]
        lines.append({"step": 4, "world/mean": 0.625})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "logs" / "metrics.jsonl").write_text(text)
    for number in range(12):  # the last step of the first run is the only one of its size
        (runs[0] / "samples").mkdir(exist_ok=True)
        size = (20, 20) if number == 11 else (30, 10)
        Image.new("RGB", size).save(runs[0] / "samples" / f"step-{number:08}.png")
    clip = [Image.new("RGB", (32, 32), (10 * number, 0, 0)) for number in range(9)]
    save_mp4(clip, runs[1] / "samples" / "step-00000004.mp4", 8)
    curves = script("training_curves")
    assert curves.main([str(tmp_path / "out"), *map(str, runs)]) == 0
    table = (tmp_path / "out" / "tables.md").read_text()
    assert table in capsys.readouterr().out
    first, second = [line.split("|")[1:-1] for line in table.splitlines() if "| 4 " in line]
    cells = ["first", "4", "4", "16", "0.5833", "0.5833", "0.62", "-"]
    assert [cell.strip() for cell in first] == cells
    assert [cell.strip() for cell in second] == ["second", *cells[1:-1], "0.5833"]
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    with Image.open(tmp_path / "out" / "samples.png") as samples:
        assert samples.height > 300  # two rows
    image, frames = (curves.last_samples(run / "samples") for run in runs)
    assert [one.size for one in image] == [(20, 20)]
    reds = [frame.getpixel((9, 9))[0] for frame in frames]
    assert len(reds) == 5 and reds == sorted(reds) and reds[-1] > 60
    (tmp_path / "begun" / "logs").mkdir(parents=True)
    (tmp_path / "begun" / "logs" / "metrics.jsonl").touch()
    for run, why in (("nowhere", "is not there"), ("begun", "has no loss yet")):
        with pytest.raises(SystemExit):
            curves.main([str(tmp_path / "out"), str(tmp_path / run)])
        assert why in capsys.readouterr().err


@pytest.mark.parametrize(("first", "in_order"), [((0.2, 0.5), "12"), ((0.8, 0.5), "0")])
def test_naming_order(script, first, in_order):
    """Scenes rendered with the thing named first in a known place, the last one always wrong."""
    naming_order = script("naming_order")

    def generate(prompts, seeds):
        scenes = []
        for prompt in prompts:
            one, other = parse(prompt).groups
            things = [
                Thing(group.shape, group.color or "red", "small", x, y)
                for group, (x, y) in zip((one, other), (first, (0.5, 0.6)), strict=True)
            ]
            scenes.append(Scene(tuple(things), "black"))
        scenes[-1] = replace(scenes[-1], things=scenes[-1].things[:1])
        return render(scenes, size=64, num_frames=1)

    rows = {row["task"]: row for row in naming_order.measure(generate, 13)}
    assert set(rows) == {"two_object", "color_attr"}
    row = rows["color_attr"]
    assert (row["images"], row["strictly right"]) == ("13", "12")
    assert row["of these in order"] == in_order


def test_naming_order_writes_its_table(script, tmp_path, capsys):
    """With the bundled model; a picture or two may be wrong, so only the form is looked at."""
    naming_order = script("naming_order")
    assert naming_order.main([str(tmp_path), "--images", "1", "--dtype", "float32"]) == 0
    table = (tmp_path / "tables.md").read_text()
    assert table in capsys.readouterr().out
    assert "| two_object |" in table and "| color_attr |" in table
    with pytest.raises(SystemExit):
        naming_order.main([str(tmp_path), "--images", "0"])
    assert "--images 0 is not enough" in capsys.readouterr().err


def test_cuda_tables(script, tmp_path):
    cuda_tables = script("cuda_tables")
    assert cuda_tables.main([str(tmp_path), "--tiny", "--device", "cpu"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.json" for name in cuda_tables.PARTS),
        "tables.md",
    }
    checked = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert {row["dtype"] for row in checked} == {"float32", "bfloat16"}
    assert all(row["ok"] for row in checked if row["backend"] in ("auto", "chunked"))
    assert "| ok" in (tmp_path / "tables.md").read_text()
    steps = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert [row["load"] for row in steps] == [
        f"hth_300m/{name}"
        for name in ("1_256p_t2i data.0", "3_180p_t2v data.0", "3_180p_t2v data.1")
    ]
    for row in steps:
        assert 0.9 < row["ratio"] < 1.1  # of the peak to the plan
        assert 0 < row["mfu"] < row["mfu_with_recomputation"]
    assert steps[1]["tokens"] == 2 * steps[0]["tokens"]


def test_training_steps_begin_nothing_after_their_time(script, tmp_path):
    cuda_tables = script("cuda_tables")
    args = [str(tmp_path), "--tiny", "--device", "cpu", "--parts", "training", "--minutes", "0"]
    assert cuda_tables.main(args) == 0
    tables = (tmp_path / "tables.md").read_text()
    assert "- left out: hth_300m/3_180p_t2v data.1: the time was used up" in tables


def test_a_training_step_that_fails_is_reported(script, tmp_path, monkeypatch):
    cuda_tables = script("cuda_tables")
    monkeypatch.setattr(cuda_tables, "RECIPES", ("hth_300m/1_256p_t2i",))
    monkeypatch.setattr(cuda_tables, "TINY_FILES", {"area": "1024", "step": "4"})
    args = [str(tmp_path), "--tiny", "--device", "cpu", "--parts", "training"]
    assert cuda_tables.main(args) == 3
    tables = (tmp_path / "tables.md").read_text()
    assert "- left out: hth_300m/1_256p_t2i data.0: UsageError: data.0.files" in tables


def test_a_part_that_fails_stops_no_other(script, tmp_path, monkeypatch):
    cuda_tables = script("cuda_tables")

    def broken(plan):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(cuda_tables.PARTS, "ops-1024", broken)
    args = [str(tmp_path), "--tiny", "--device", "cpu", "--parts", "ops-1024,check"]
    assert cuda_tables.main(args) == 3
    tables = (tmp_path / "tables.md").read_text()
    assert "failed: RuntimeError: no such kernel" in tables and "## check" in tables


def test_shapes_are_odd_and_always_the_same(script):
    cuda_tables = script("cuda_tables")
    shapes = cuda_tables.random_shapes(5, tiny=False)
    assert shapes == cuda_tables.random_shapes(5, tiny=False)
    assert all(shape.length % 2 for shape in shapes)
    assert cuda_tables.within({"y": 1e-6, "x": 5e-5}, 1e-5, 1e-4)
    assert not cuda_tables.within({"y": 5e-5, "x": 5e-5}, 1e-5, 1e-4)
    assert not cuda_tables.within({"y": float("nan")}, 1e-5, 1e-4)
