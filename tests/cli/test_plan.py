"""`statefilm plan`: pages, JSON, exit codes, and input that is refused in one line."""

import json

import pytest

BLOCK = "model.overrides.plan=[{mixer: hydra, image_scan: H, video_scan: H}]"


def test_page_and_json_of_a_recipe(cli):
    page = cli("plan", "smoke_world_t2i", BLOCK, "--memory", "1GB").out
    for text in ("smoke_world_t2i", "activations", "optimizer", "micro-batch", "it fits"):
        assert text in page
    outcome = cli("plan", "smoke_world_t2i", BLOCK, "--tflops", "1", "--mfu", "0.5", "--json")
    plan = json.loads(outcome.out)
    assert outcome.code == 0 and plan["fits"] is True
    assert plan["seconds"] == pytest.approx(plan["loads"][0]["flops"] / 0.5e12)
    assert plan["loads"][0]["memory"]["average"] == 4 * plan["model"]["parameters"]


def test_what_does_not_fit_ends_with_one_and_says_what_would(cli):
    outcome = cli("plan", "smoke_world_t2i", BLOCK, "--memory", "2MB")
    assert outcome.code == 1 and outcome.err == ""
    assert "it does not fit\n  what would: " in outcome.out


def test_a_preset_over_several_devices(cli):
    page = cli("plan", "unet_tiny", "height=32", "width=32", "--gpus", "2", "--device", "A100").out
    for text in ("2 x 80 GB", "shard 2", "all-gather", "reduce-scatter", "312 TFLOP/s"):
        assert text in page


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["smoke_world_t2i", "--gpus", "0"], "--gpus 0"),
        (["smoke_world_t2i", "--memory", "80G B"], "'80G B'"),
        (["smoke_world_t2i", "--device", "h10"], "h100"),
        (["smoke_world_t2i", "--mfu", "40"], "--mfu 40"),
        (["smoke_world_t2i", "--tflops", "0"], "--tflops 0"),
        (["smoke_world_t2i", "--gpus", "3"], "nearest valid is 6"),
        (["smoke_world_t2i", "parallel.shard=2", "--gpus", "3"], "3 processes"),
        (["hth_5a"], "hth_5b"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["hth_tiny", "batch=2"], "batch_size"),
    ],
)
def test_bad_input_is_one_line(refused, args, said):
    assert said in refused("plan", *args)
