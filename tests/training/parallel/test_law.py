"""However many processes share a run, and however they share it, it is the run of one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from statefilm.training.tensor_files import TensorFiles

pytestmark = pytest.mark.xdist_group("law")  # one worker makes the runs that all of them share

LAUNCH = Path(__file__).with_name("launch.py")
STEPS = 20


def block(mixer, scan):
    return f"{{mixer: {mixer}, image_scan: {scan}, video_scan: {scan}}}"


def plan(*entries):
    return "model.overrides.plan=[" + ", ".join(block(*e.split()) for e in entries) + "]"


CHANGES = [
    *("precision=float32", "optimizer={name: adamw, lr: 0.001}", f"steps={STEPS}"),
    *("data.0.batch_size=8", "samples.every_steps=0"),
    *("model.overrides.head_dim=8", "model.overrides.position=rope"),
    plan("hydra H", "attention V"),
    "model.overrides.mixer_options={hydra: {state_dim: 8, head_dim: 16}, s6: {state_dim: 4}, "
    "bimamba2: {state_dim: 8, head_dim: 16}, linear_attention: {head_dim: 8}, "
    "s4d: {state_dim: 4, hidden_dim: 16}}",
]
# Every mixer whose tokens can be split, and scans of each kind.
ALL = [
    "text.train=false",
    plan(
        *("hydra H", "bimamba2 V", "attention hilbert"),
        *("linear_attention V", "s6 H", "s4d hilbert"),
    ),
]
# 25 and 16 tokens in turn with 10 beside them: neither is a multiple of 4, one is none of 2.
ODD = [
    *(*ALL, "model.overrides.text_prefix=8", "model.overrides.registers=2"),
    "model.overrides.mixer_options.hydra.groups=2",
    "data=[{world: {size: 40}, batch_size: 8}, {world: {size: 32}, batch_size: 8}]",
]
# 9 tokens: on 4 processes fewer each than a convolution reads of its neighbours.
FEW = [*ALL, "data.0.world.size=48", "model.overrides.patch_size=[1, 16, 16]"]
TWICE = ["checkpoint.every_steps=10"]
CHECKPOINTED = ["gradient_checkpointing=true"]
LORA = ["model.lora={rank: 2}"]
SAMPLED = ["samples.every_steps=20"]
HELD_OUT = "{world: {size: 32, split: heldout}, batch_size: 8}"
VALIDATED = [f"validation={{data: {HELD_OUT}, batches: 2, every_steps: 5}}"]
VALIDATED += ["checkpoint.keep_best=true"]
WIDE = "model.overrides.patch_size=[1, 32, 32]"
UNET = ["steps=2", "samples.every_steps=0", "precision=float32", "data.0.batch_size=2"]
HALF = "checkpoints/step-00000010"

RUNS = {
    1: {
        "one": [*SAMPLED, *VALIDATED],
        "one all": ALL,
        "one odd": ODD,
        "one few": FEW,
        "one lora": LORA,
    },
    4: {
        "replicate 4": [],
        "shard 4": ["parallel.shard=4"],
        "replicate 2 shard 2": ["parallel.shard=2", *TWICE],
        "replicate 2 shard 2 accumulate 2": ["parallel.shard=2", "accumulate=2"],
        "context 4 all": ["parallel.context=4", *ALL],
        "context 4 odd": ["parallel.context=4", *ODD],
        "context 4 few": ["parallel.context=4", *FEW],
        "shard 2 context 2": ["parallel={shard: 2, context: 2}", *SAMPLED, *VALIDATED],
    },
    2: {
        "replicate 2": [*VALIDATED, *TWICE, "checkpoint.keep_last=4"],
        "shard 2": ["parallel.shard=2", "checkpoint.background=true", *TWICE],
        "context 2 all": ["parallel.context=2", *ALL],
        "context 2 odd": ["parallel.context=2", *CHECKPOINTED, *ODD, *TWICE],
        "shard 2 lora": ["parallel.shard=2", *LORA],
        "replicate 2 accumulate 2": ["accumulate=2"],
        "shard 2 accumulate 2": ["parallel.shard=2", "accumulate=2", *CHECKPOINTED],
        "context 2 accumulate 2": ["parallel.context=2", "accumulate=2", *CHECKPOINTED],
    },
}
# From ten steps of four processes, on fewer.
RESUMED = {1: {"4 to 1": []}, 2: {"4 to 2": ["parallel.shard=2"]}}
# From ten steps, on the same processes.
AGAIN = {4: ["replicate 2 shard 2"], 2: ["replicate 2", "shard 2", "context 2 odd"]}
REFUSED = {
    "tokens": (
        ["parallel.context=4", "data.0.world.size=32", WIDE],
        r"context 4: .* data\.0 may have only 1: at most 1 is valid",
    ),
    "held out": (
        ["parallel.context=4", "data.0.world.size=64", WIDE, *VALIDATED],
        r"context 4: .* validation\.data may have only 1: at most 1 is valid",
    ),
    "pictures": (
        ["parallel.context=4", "data.0.world={size: 32, num_frames: 5}", WIDE, *SAMPLED],
        r"context 4: .* samples may have only 1: at most 1 is valid",
    ),
    "heads": (
        ["parallel.context=4", "model.overrides.head_dim=16"],
        "the 2 heads of SelfAttentionMixer: valid are 1, 2",
    ),
    "compiled": (["parallel.context=4", "compile=blocks"], "are not compiled"),
    "batch": (["data.0.batch_size=6"], "batch_size 6 .* 4 processes: the nearest valid is 8"),
    "parts": (["accumulate=4"], r"data\.0\.batch_size 8 .* accumulate 4 .* valid is 16"),
    "sizes": (["parallel={replicate: 3}"], "replicate 3 x shard 1 .* does not fit 4 processes"),
    "product": (["parallel.shard=3"], "shard 3 .* does not fit 4 processes"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder with all runs, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("runs")

    def entry(name, changes, resume="auto", recipe="smoke_world_t2i"):
        before = CHANGES if recipe == "smoke_world_t2i" else UNET
        return [recipe, str(folder / name), [*before, *changes], resume]

    def resumed(name, changes, source):
        return entry(name, changes, str(folder / source / HALF))

    jobs = [
        {"processes": size, "runs": [entry(*run) for run in RUNS[size].items()]} for size in RUNS
    ]
    jobs[1]["runs"] += [entry(name, changes) for name, (changes, _) in REFUSED.items()]
    jobs[0]["runs"] += [entry("unet", [], recipe="smoke_clips_balls")]
    jobs[2]["runs"] += [
        entry("unet shard 2", ["parallel.shard=2"], recipe="smoke_clips_balls"),
        entry("unet context 2", ["parallel.context=2"], recipe="smoke_clips_balls"),
        entry("vae shard 2", ["parallel.shard=2"], recipe="smoke_world_vae"),
        entry("text shard 2", ["parallel.shard=2"], recipe="smoke_world_text"),
    ]
    jobs += [
        {
            "processes": size,
            "runs": [
                *(resumed(*run, "replicate 2 shard 2") for run in RESUMED.get(size, {}).items()),
                *(resumed(f"{n} again", RUNS[size][n], n) for n in AGAIN.get(size, ())),
            ],
        }
        for size in (1, 2, 4)
    ]
    jobs.append(
        {
            "processes": 2,
            "runs": [entry("full", ["parallel.shard=2", "steps=1"])],
            "largest": 20_000,
        }
    )
    for job in jobs[:3]:
        job["muon"] = str(folder / f"muon-{job['processes']}")
    (folder / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run(
        [sys.executable, str(LAUNCH), str(folder / "jobs.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    return folder


def metrics(folder, name="loss"):
    lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if name in line]


def weights(folder, part="model"):
    """The tensors of the last checkpoint, whatever files they lie in."""
    return dict(TensorFiles(folder / "checkpoints" / f"step-{STEPS:08d}", part))


def assert_same_course(found, expected):
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert [line["samples"] for line in found] == [line["samples"] for line in expected]
    for here, there in zip(found, expected, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-4)


def alone(name):
    """The run of one process that is to be the same."""
    kind = name.rpartition(" ")[2]
    return f"one {kind}" if f"one {kind}" in RUNS[1] else "one"


@pytest.mark.parametrize("name", [n for size in (4, 2) for n in RUNS[size]])
def test_the_losses_are_those_of_one_process(runs, name):
    course = metrics(runs / name)
    assert len(course) == STEPS
    assert_same_course(course, metrics(runs / alone(name)))


@pytest.mark.parametrize("name", ["replicate 2", "shard 2 context 2"])
def test_validation_is_that_of_one_process_and_so_is_the_best(runs, name):
    course, expected = (metrics(runs / run, "validation") for run in (name, "one"))
    assert [line["step"] for line in course] == [5, 10, 15, 20]
    for here, there in zip(course, expected, strict=True):
        assert here["validation"] == pytest.approx(there["validation"], rel=1e-6)
    one, other = (runs / run / "best" / "transformer" for run in ("one", name))
    expected, found = (load_file(next(path.glob("*.safetensors"))) for path in (one, other))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for named in RESUMED.values() for n in named])
def test_a_checkpoint_of_four_goes_on_with_any_number(runs, name):
    assert_same_course(metrics(runs / name), metrics(runs / "one")[10:])


@pytest.mark.parametrize("name", [n for names in AGAIN.values() for n in names])
def test_the_same_processes_go_on_to_the_bit(runs, name):
    course, expected = metrics(runs / f"{name} again"), metrics(runs / name)[10:]
    assert [line["loss"] for line in course] == [line["loss"] for line in expected]
    for part in ("model", "ema", "optimizer"):
        whole, resumed = weights(runs / name, part), weights(runs / f"{name} again", part)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize(
    "name", ["shard 4", "replicate 2 shard 2", "shard 2 context 2", "shard 2 lora", "4 to 1"]
)
def test_the_saved_model_is_that_of_one_process(runs, name):
    one, other = runs / alone(name) / "pipeline", runs / name / "pipeline"
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for file in files:
        if file.suffix == ".json":
            assert (one / file).read_text() == (other / file).read_text()
        elif file.suffix == ".safetensors":
            expected, found = load_file(one / file), load_file(other / file)
            assert expected.keys() == found.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


def test_each_process_writes_its_rows_of_one_copy(runs):
    names = {
        "one": ["model.safetensors"],
        "replicate 4": ["model.safetensors"],
        "context 4 all": ["model.safetensors"],
        "replicate 2 shard 2": [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)],
        "shard 2 context 2": [f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)],
    }
    for run, files in names.items():
        folder = runs / run / "checkpoints" / f"step-{STEPS:08d}"
        assert sorted(path.name for path in folder.glob("model*")) == files


def test_saving_in_the_background_leaves_nothing_out(runs):
    folder = runs / "shard 2"
    found = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert found == ["step-00000010", "step-00000020"]
    assert (folder / "pipeline" / "model_index.json").is_file()
    for name, value in weights(runs / "one").items():
        torch.testing.assert_close(weights(folder)[name], value, rtol=1e-3, atol=1e-4)


def test_samples_of_a_model_on_several_processes_are_those_of_one(runs):
    one, four = (
        Image.open(runs / name / "samples" / "step-00000020.png")
        for name in ("one", "shard 2 context 2")
    )
    pixels = [
        torch.tensor(list(image.convert("L").tobytes()), dtype=torch.int32) for image in (one, four)
    ]
    assert (pixels[0] - pixels[1]).abs().max() <= 2


def test_a_video_unet_is_sharded_but_not_split(runs):
    expected, found = metrics(runs / "unet"), metrics(runs / "unet shard 2")
    for here, there in zip(found, expected, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
    assert "only a run of kind denoiser can split" in (runs / "unet context 2.errors").read_text()
    assert "a VAE is trained whole" in (runs / "vae shard 2.errors").read_text()
    assert "a text encoder is trained whole" in (runs / "text shard 2.errors").read_text()


def test_a_full_disk_under_one_process_ends_the_run_on_all_with_a_line_each(runs):
    last, first = sorted((runs / "full.errors").read_text().splitlines())
    assert "File too large" in last
    assert "process 0: another process could not write its part" in first
    for line in (last, first):
        assert line.startswith("OSError: ")
        assert "step-00000001 could not be written" in line
    assert list((runs / "full" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_shared_is_refused_on_every_process_in_one_line(runs, name):
    lines = (runs / f"{name}.errors").read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("UsageError: ")
        assert re.search(REFUSED[name][1], line)
    assert not (runs / name).exists()  # said before the first step


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("sharded", [False, True])
def test_muon_over_processes_is_muon_to_the_bit(runs, size, sharded):
    alone = load_file(runs / "muon-1-False.safetensors")
    shared = load_file(runs / f"muon-{size}-{sharded}.safetensors")
    assert all(torch.equal(alone[name], shared[name]) for name in alone)
