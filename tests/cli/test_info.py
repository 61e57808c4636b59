"""`statefilm info` and `doctor`: facts without weights, and the state of the installation."""

import json
from importlib.metadata import version

import torch

from statefilm.cli.info import human
from statefilm.cli.info_unet import render
from statefilm.models import build


def costs(described):
    return {cost["size"]: cost for cost in described["costs"]}


def test_the_5b_preset_without_its_weights(cli):
    described = json.loads(cli("info", "hth_5b", "--json").out)
    assert abs(described["parameters"] / 5e9 - 1) < 0.02
    assert [block["mixer"] for block in described["plan"]].count("attention") == 3
    tokens = {size: cost["tokens"] for size, cost in costs(described).items()}
    assert (tokens["1K image"], tokens["2K image"]) == (4096, 16384)
    assert 7000 < tokens["180p x 128"] < 7600 and 28000 < tokens["360p x 128"] < 30000
    # At least two operations a parameter and token, text projections apart.
    assert costs(described)["1K image"]["flops"] > 2 * 4096 * 0.8 * described["parameters"]


def test_page_names_plan_and_sizes(cli):
    page = cli("info", "hth_5b").out
    for text in ("4.96B", "33 blocks: 30 hydra, 3 attention", "1-10", "2048x2048"):
        assert text in page
    assert "640x352x129" in page


def test_the_dit_spends_more_on_attention(cli):
    hth, dit = (json.loads(cli("info", name, "--json").out) for name in ("hth_5b", "dit_5b"))
    for size, cost in costs(dit).items():
        assert cost["parts"]["attention"] > costs(hth)[size]["parts"]["attention"]


def test_a_folder_is_described_without_loading_it(cli, model):
    described = json.loads(cli("info", model, "--json").out)
    assert described["vae_factors"] == [1, 1, 1]
    assert described["parameters"] == described["parts"]["transformer"]
    assert set(described["parts"]) == {"transformer", "text_encoder"}
    assert "text_encoder" in cli("info", model).out


def test_a_vae_shortens_the_latents(cli, model, tmp_path):
    from statefilm.cli.info import _vae_factors
    from statefilm.models.vae import build_vae

    with torch.device("meta"):
        build_vae("world_vae").save_config(tmp_path / "vae")
    assert _vae_factors(tmp_path / "vae") == (2, 4, 4)


def test_describe_takes_any_device(cli):
    from statefilm.cli.info import describe

    small = build(
        "hth_tiny", dim=64, plan=[{"mixer": "hydra", "image_scan": "H", "video_scan": "H"}]
    )
    assert describe("small", small, (1, 1, 1))["parameters"] == sum(
        p.numel() for p in small.parameters()
    )


def test_the_published_unet_and_the_forms_of_its_time_axis(cli):
    described = json.loads(cli("info", "unet_112", "--json").out)
    assert sum(described["parts"].values()) == described["parameters"]
    assert described["parts"]["temporal layers"] == described["temporal_parameters"]
    forms = {
        (form["temporal_mixer"], *form["temporal_mixer_options"].items()): form
        for form in described["forms"]
    }
    assert len(forms) == 9
    attention, s6 = forms["temporal_attention", ("heads", 14)], forms[("s6",)]
    assert abs(attention["temporal_parameters"] / 12.8e6 - 1) < 0.01
    assert abs(s6["temporal_parameters"] / 15e6 - 1) < 0.07
    assert s6["temporal_parameters"] == described["temporal_parameters"]
    growth = [form["temporal_flops"][2] / form["temporal_flops"][0] for form in (attention, s6)]
    assert growth[0] > 1.5 * growth[1]
    rows = [line.split() for line in render(described).splitlines()]
    found = {row[0]: (row[-1], row[-5]) for row in rows if row and row[-1] in ("12.8M", "15M")}
    assert found == {
        "temporal_attention,": ("12.8M", f"{attention['temporal_parameters']:,}"),
        "s6": ("15M", f"{s6['temporal_parameters']:,}"),
    }


def test_a_unet_folder(cli, unet):
    described = json.loads(cli("info", unet("class"), "--json").out)
    assert described["components"] == {"unet": described["parameters"]}
    assert described["temporal_mixer_options"] == {"state_dim": 4}
    assert [cost["size"][0] for cost in described["costs"]] == [16, 64, 256]
    page = render(described)
    for text in ("3 classes (red walls, blue walls, 7)", "hydra (state_dim 4)", "multiples of 2"):
        assert text in page
    assert "reads        text of width 8" in cli("info", unet("text")).out


def test_doctor_checks_everything(cli):
    outcome = cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(outcome.out)}
    assert outcome.code == (0 if all(check["ok"] for check in checks.values()) else 1)
    for name in ("torch", "devices", "threads", "memory", "disk", "kernels", "video codecs"):
        assert checks[name]["ok"], checks[name]
    assert "chunked" in checks["kernels"]["value"] and "h264" in checks["video codecs"]["value"]
    assert checks["torch"]["value"] == version("torch")


def test_counts_of_any_size_print():
    assert human(999.4) == "999" and human(4.98e9) == "4.98B"
    assert human(1e18) == "1E" and human(1e30) == "1e+09Z"
    assert human(2e6, (" B", " kB")) == "2e+03 kB"
