"""Plans: what is foretold of a step is what a real one keeps, holds and computes."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.models import build
from statefilm.models.flops import forward_flops
from statefilm.models.text import build_text_encoder
from statefilm.training import Trainer, load_recipe
from statefilm.training.parallel import Ranks
from statefilm.training.planning import (
    Hardware,
    Layout,
    Planner,
    Settings,
    parse_bytes,
    plan_preset,
    plan_recipe,
    read_preset_run,
)
from statefilm.training.planning.layout import ModelBytes, communication
from statefilm.training.planning.shells import preset_shell, recipe_shell
from statefilm.training.planning.sources import without_weights
from statefilm.training.tasks import build_task

from .conftest import tiny_recipe

CPU = torch.device("cpu")
SIZE = (1, 64, 64)
ONE = Hardware(devices=1, memory=10**9, rate=1e12, utilisation=0.5, cuda=False)
MIXED = "model.overrides.plan=[{mixer: hydra, image_scan: H, video_scan: H}, "
MIXED += "{mixer: attention, image_scan: H, video_scan: H}]"
SHORT = "text.max_length=8"  # real captions fill it, as the plan's do
UNET = "model.overrides={dim: 8, multipliers: [1, 2], num_classes: null}"
RECIPES = {
    "text encoder trained": lambda: tiny_recipe(SHORT),
    "bfloat16, text encoder frozen": lambda: tiny_recipe(
        SHORT, MIXED, "precision=bfloat16", "text.train=false"
    ),
    "checkpointing": lambda: tiny_recipe(
        SHORT, MIXED, "precision=bfloat16", "gradient_checkpointing=true"
    ),
    "adamw, a clip": lambda: tiny_recipe(
        SHORT, "optimizer.name=adamw", "data.0.world.num_frames=5", "data.0.batch_size=2"
    ),
    "U-Net": lambda: load_recipe("smoke_clips_maze"),
    "VAE": lambda: load_recipe("smoke_world_vae"),
}


def real_step(recipe):
    """The task of a recipe, and a function that gives the loss of its first batch."""
    task = build_task(recipe, CPU, Ranks())
    batch = task.batches.batch(0, recipe.steps)

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            return task.loss(batch)

    return task, loss


def saved_bytes(task, loss):
    """Storages that a real forward keeps for its backward, each once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in task.modules.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        whole = loss()
    assert whole.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", RECIPES)
def test_saved_bytes_are_those_of_a_real_forward(name):
    recipe = RECIPES[name]()
    checkpointing = getattr(recipe, "gradient_checkpointing", False)
    samples = recipe.data[0].batch_size
    foretold = recipe_shell(recipe).count(0, samples, checkpointing=checkpointing, cuda=False)
    task, loss = real_step(recipe)
    loss()  # fills the caches of scans
    saved = saved_bytes(task, loss)
    assert foretold.activations + foretold.weight_copies == pytest.approx(saved, rel=0.01)


def test_the_peak_is_that_of_the_allocator():
    recipe = tiny_recipe(SHORT, "data.0.world.num_frames=5")
    foretold = recipe_shell(recipe).count(0, 4, checkpointing=False, cuda=False)
    task, loss = real_step(recipe)
    loss().backward()
    task.modules.zero_grad()
    measured = peak_bytes(lambda: loss().backward(), CPU)
    assert foretold.peak == pytest.approx(measured, rel=0.1)
    assert foretold.peak >= foretold.activations


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_states_are_those_of_a_trainer_after_a_step(optimizer, tmp_path):
    recipe = tiny_recipe(f"optimizer.name={optimizer}", "steps=1", SHORT)
    memory = plan_recipe(recipe, ONE).loads[0].memory
    trainer = Trainer(recipe, tmp_path, device="cpu", quiet=True)
    trainer.fit()
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    assert memory.weights == size(trainer.task.modules.parameters())
    assert memory.optimizer == size(trainer.optimizers.tensors().values())
    assert memory.average == size(trainer.average.tensors().values())
    assert memory.gradients == size(trainer.optimizers.parameters.values())


def test_flops_are_those_of_the_formula():
    shell = preset_shell("hth_tiny", SIZE, SIZE, batch_size=1, text_tokens=16, precision="float32")
    with torch.device("meta"):
        config = build("hth_tiny").config
    counted = shell.count(0, 2, checkpointing=False, cuda=False).trained_flops
    assert counted == pytest.approx(2 * sum(forward_flops(config, SIZE, 16).values()), rel=0.03)


def test_a_frozen_encoder_costs_a_forward_only():
    recipe = tiny_recipe(SHORT, "text.train=false")
    counts = recipe_shell(recipe).count(0, 4, checkpointing=False, cuda=False)
    plan = plan_recipe(recipe, ONE)
    assert counts.frozen_flops > 0
    assert plan.loads[0].flops == 3 * counts.trained_flops + counts.frozen_flops
    assert plan.frozen["text_encoder"] * 4 == plan.loads[0].memory.frozen


@pytest.mark.skipif(find_spec("triton") is None, reason="the fused forms need triton")
def test_forms_of_cuda_keep_less():
    shell = recipe_shell(tiny_recipe("precision=bfloat16"))
    for checkpointing in (False, True):
        on_cpu, on_cuda = (
            shell.count(0, 4, checkpointing=checkpointing, cuda=cuda) for cuda in (False, True)
        )
        assert on_cuda.activations < on_cpu.activations or checkpointing
        assert on_cuda.peak <= on_cpu.peak


def test_time_follows_from_work_rate_and_devices():
    slow, fast = (
        plan_recipe(tiny_recipe(SHORT), replace(ONE, devices=n, rate=n * 1e12)) for n in (1, 2)
    )
    assert fast.seconds == pytest.approx(slow.seconds / 4)
    assert slow.seconds == pytest.approx(slow.loads[0].flops / 0.5e12)
    assert slow.days == pytest.approx(4 * slow.seconds / 86400)
    assert slow.tokens_per_second == pytest.approx(4 * 16 / slow.seconds)


@given(
    replicate=st.integers(1, 8), shard=st.integers(1, 8), context=st.integers(1, 4),
    parts=st.integers(1, 4),
)  # fmt: skip
def test_what_is_sent(replicate, shard, context, parts):
    layout = Layout(replicate, shard, context)
    model = ModelBytes(10**6, 4 * 10**6, 4 * 10**6, 8 * 10**6, 4 * 10**6, 0, 10**5)
    sent = communication(layout, model, [], 0, parts, 2)
    assert (sent.total == 0) == (layout.devices == 1)
    if layout.cuts == 1:
        assert sent.all_gather == sent.reduce_scatter == 0
        assert sent.all_reduce < 2 * model.gradients  # once a step, however many parts
    else:
        assert sent.all_gather == pytest.approx(2 * sent.reduce_scatter)
        assert sent.reduce_scatter < parts * model.gradients
        assert (sent.all_reduce == 0) == (replicate == 1)


def planner(*changes, memory=10**9, devices=1):
    """The planner of the one-block recipe on devices with so much memory."""
    recipe = tiny_recipe(SHORT, "data.0.batch_size=8", *changes)
    settings = Settings(Layout(devices, 1, 1), recipe.accumulate, recipe.gradient_checkpointing)
    hardware = replace(ONE, memory=memory, devices=devices)
    return Planner(recipe_shell(recipe), recipe.optimizer, hardware, settings)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    found = planner(memory=6_000_000)
    largest = found.largest(0, found.settings)
    needs = [found.memory(0, found.settings, largest + more).total for more in (0, 1)]
    assert largest > 0 and needs[0] <= 0.95 * 6_000_000 < needs[1]


def test_sharding_divides_states_and_keeps_activations():
    found = planner(devices=4)
    whole, cut = (
        found.memory(0, Settings(layout)) for layout in (Layout(4, 1, 1), Layout(1, 4, 1))
    )
    for name in ("weights", "optimizer", "average", "gradients"):
        assert getattr(cut, name) == getattr(whole, name) // 4
    assert cut.activations == whole.activations and cut.gathered > 0


def test_context_divides_activations_but_not_blocks_inputs():
    found = planner(devices=4)
    whole, split = (
        found.memory(0, Settings(layout), 4).activations
        for layout in (Layout(4, 1, 1), Layout(1, 2, 2))
    )
    assert whole / 2 < split < whole


def test_tokens_that_do_not_divide_count_for_the_process_that_has_the_most():
    found = planner("data.0.world.size=40", devices=4)
    whole, split = (
        found.memory(0, Settings(layout), 4).activations
        for layout in (Layout(4, 1, 1), Layout(1, 1, 4))
    )
    width, tokens = 32, 25
    inputs = 4 * 4 * tokens * width
    assert split == pytest.approx(7 / 25 * whole + 18 / 25 * inputs, rel=0.01)


FLAT = "model.overrides.patch_size=[1, 32, 32]"  # as many tokens as squares of 32 pixels
TWO = "data=[{world: {size: 64}, batch_size: 2}, {world: {size: 32}, batch_size: 2}]"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ([TWO], r"data\.1"),
        (["validation={data: {world: {size: 32}, batch_size: 2}}"], r"validation\.data"),
        (["data.0.world.num_frames=5", "samples.every_steps=2"], "samples"),
        ([TWO, "model.overrides.registers=1"], None),  # it is a token too
    ],
)
def test_samples_with_fewer_tokens_than_processes_are_refused_wherever_they_come_from(
    changes, where
):
    size = "data.0.world.size=32" if where == "samples" else "data.0.world.size=64"
    recipe = tiny_recipe(SHORT, FLAT, size, "parallel.context=2", *changes)
    if where is None:
        assert plan_recipe(recipe, replace(ONE, devices=2)).settings.layout.context == 2
        return
    with pytest.raises(ValueError, match=rf"context 2: .* {where} may have only 1: at most 1"):
        plan_recipe(recipe, replace(ONE, devices=2))


def test_the_smallest_bucket_of_files_that_are_not_there_yet_counts():
    # 64 x 64, 96 x 64 and 64 x 32 pixels
    files = "files: {path: nowhere, area: 4096, step: 32, ratios: [1.0, 1.5, 2.0]}"
    shell = recipe_shell(tiny_recipe(SHORT, FLAT, f"data.0={{{files}, batch_size: 4}}"))
    assert shell.lengths == {"data.0": 2} and shell.loads[0].tokens == 6


def test_advice_to_split_the_tokens_of_compiled_blocks_says_not_to_compile_them():
    advice = {
        compiled: planner(
            *(f"compile={compiled}", "data.0.world.num_frames=5"), memory=1_800_000, devices=4
        )
        .plan("toy", None)
        .advice
        for compiled in ("none", "blocks")
    }
    for compiled, lines in advice.items():
        split = [line for line in lines if "parallel.context=" in line]
        assert split
        assert all(("compile=none" in line) == (compiled == "blocks") for line in split)


def test_advice_names_changes_with_which_it_fits():
    found = planner(memory=2_200_000)
    plan = found.plan("toy", None)
    assert not plan.fits
    accumulated = next(line for line in plan.advice if line.startswith("accumulate="))
    parts = int(accumulated.split(":")[0].partition("=")[2])
    assert parts > 1 and found.fits(replace(found.settings, accumulate=parts))
    assert not found.fits(replace(found.settings, accumulate=parts // 2))


def test_what_never_fits_is_said():
    advice = planner(memory=1000).plan("toy", None).advice
    assert len(advice) == 1 and "smaller model" in advice[0]


def test_sizes_that_do_not_divide_are_one_line():
    for changes, devices, said in (
        (["data.0.batch_size=5"], 2, "batch_size 5 .* nearest valid is 6"),
        (["data.0.batch_size=6", "accumulate=4"], 1, "= 4 parts: the nearest valid is 8"),
        (["parallel.shard=2"], 3, "parallel.*3 processes"),
        (["parallel.context=3"], 3, "context 3: it does not divide the 4 heads of HydraMixer"),
        (["parallel.context=2", "compile=blocks"], 2, "context 2: .* not compiled"),
    ):
        recipe = tiny_recipe(SHORT, "data.0.batch_size=6", *changes)
        with pytest.raises(ValueError, match=said):
            plan_recipe(recipe, replace(ONE, devices=devices))


def test_models_of_folders_are_known_by_their_configs(tmp_path):
    recipe = tiny_recipe()
    model = build(recipe.model.preset, **recipe.model.overrides)
    model.save_config(tmp_path / "pipeline" / "transformer")
    encoder = build_text_encoder("world_t5", **recipe.text.overrides)
    encoder.config.save_pretrained(tmp_path / "pipeline" / "text_encoder")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    sources = (f"model={{init_from: {tmp_path}}}", f"text={{init_from: {tmp_path}, train: true}}")
    found = recipe_shell(load_recipe("smoke_world_t2i", sources)).modules
    for name, real in (("transformer", model), ("text_encoder", encoder)):
        sizes = {key: p.shape for key, p in found[name].named_parameters()}
        assert sizes == {key: p.shape for key, p in real.named_parameters()}


def test_a_stage_stands_on_the_recipe_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = without_weights(load_recipe("world_refine")).model
    assert (model.preset, model.init_from) == ("hth_tiny", None)
    assert model.plan.temporal_fraction == 0.4  # of the second stage
    with pytest.raises(FileNotFoundError, match="runs/nowhere"):
        without_weights(load_recipe("world_refine", ["model.init_from=runs/nowhere"]))


def test_added_blocks_are_planned_for_through_the_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("world_t2v", ["model.plan={temporal_fraction: 0.0, added: 4}"])
    model = recipe_shell(without_weights(recipe)).modules["transformer"]
    assert len(model.blocks) == len(model.config.plan) == 15
    assert sum(block["video_scan"] in ("TH", "TV") for block in model.config.plan) == 4


def test_presets():
    run = read_preset_run(
        ["batch_size=2", "precision=float32", "height=32", "width=32", "num_frames=2"]
    )
    plan = plan_preset("unet_tiny", replace(ONE, devices=2), run)
    assert plan.loads[0].load.size == (2, 32, 32) and plan.loads[0].micro_batch == 1
    assert plan.settings.layout == Layout(1, 2, 1) and plan.days is None


def test_bad_changes_of_presets_are_one_line():
    for change, said in (
        ("heigth=3", "did you mean 'height'"),
        ("height=0", "height = 0"),
        ("optimizer.name=sgd", "optimizer.name = 'sgd'"),
        ("height", "key=value"),
    ):
        with pytest.raises(ValueError, match=said):
            read_preset_run([change])
    with pytest.raises(ValueError, match="height 1000 is not a multiple of 16"):
        plan_preset("hth_300m", ONE, read_preset_run(["height=1000"]))


@given(st.floats(0.001, 1e6), st.sampled_from(["kB", "MB", "GB", "GiB", "TiB"]))
def test_sizes_of_memory(number, unit):
    base = 1024 if "i" in unit else 1000
    expected = float(f"{number:.3f}") * base ** "kMGT".upper().index(unit[0].upper()) * base
    assert parse_bytes(f"{number:.3f}{unit}") == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("text", ["80G B", "80", "GB", "-1GB", "0GB", "80XB", "nanGB", "1e3GB"])
def test_what_is_no_size_of_memory(text):
    with pytest.raises(ValueError, match="80GB"):
        parse_bytes(text)


def test_nothing_is_left_behind():
    recipe = tiny_recipe(SHORT)
    shell = recipe_shell(recipe)
    shell.count(0, 4, checkpointing=True, cuda=True)
    modules = list(shell.modules.modules())
    assert all(p.grad is None for p in shell.modules.parameters())
    assert not any("forward" in vars(m) or m._forward_hooks for m in modules)
