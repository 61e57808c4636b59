"""The page of `statefilm info` for video U-Nets: parts, cost, and the forms of the time axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from statefilm.cli.info import human, load_config, parameters_of_parts

SIZES = [(16, 64, 64), (64, 64, 64), (256, 64, 64)]  # frames, height, width
TEXT_TOKENS = 128
# Of the published models at base 112 (arXiv 2403.07711), in the temporal layers, rounded there.
PUBLISHED = {(112, "temporal_attention"): "12.8M", (112, "s6"): "15M"}


def describe_preset(name: str) -> dict[str, Any]:
    """What `info` prints of a preset, with the forms that its temporal layers may take."""
    import torch

    from statefilm.models import build

    with torch.device("meta"):
        config = build(name).config
    return {**_describe(name, config), "forms": [_form(config, *form) for form in _forms(config)]}


def describe_folder(name: str, folder: Path) -> dict[str, Any]:
    """What `info` prints of a model folder.

    Raises:
        UsageError: its config is damaged or names what there is not.
    """
    import torch

    from statefilm.models import TemporalSSMUNet
    from statefilm.pipelines.checkpoint import read_index

    with torch.device("meta"):
        config = TemporalSSMUNet.from_config(load_config(TemporalSSMUNet, folder / "unet")).config
    described = _describe(name, config)
    if (folder / "model_index.json").is_file():
        described["class_names"] = read_index(folder).get("class_names")
    return {**described, "components": parameters_of_parts(folder)}


def _describe(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from statefilm.models import TemporalSSMUNet
    from statefilm.models.unet.cost import TEMPORAL, forward_flops, parts_of

    with torch.device("meta"):
        parts = parts_of(TemporalSSMUNet.from_config(config))
    costs = []
    for size in SIZES:
        flops = forward_flops(config, size, TEXT_TOKENS)
        costs.append({"size": size, "flops": sum(flops.values()), "parts": flops})
    fields = ("dim", "multipliers", "in_channels", "num_classes", "text_dim")
    return {
        "name": name,
        "parameters": sum(parts.values()),
        "temporal_parameters": parts[TEMPORAL],
        "parts": parts,
        **{field: config[field] for field in fields},
        "temporal_mixer": config["temporal_mixer"],
        "temporal_mixer_options": config["temporal_mixer_options"] or {},
        "size_step": config["patch_size"] * 2 ** (len(config["multipliers"]) - 1),
        "costs": costs,
    }


def _forms(config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Temporal mixers and options to set beside each other."""
    from statefilm.models.unet import published_heads

    heads = published_heads(config["dim"])
    attention = [("temporal_attention", {}), ("temporal_attention", {"heads": heads})]
    return [
        *attention[heads == 8 :],
        ("temporal_linear_attention", {}),
        ("s4d", {}),
        ("s4d", {"bidirectional": False}),
        ("s6", {}),
        ("s6", {"bidirectional": False}),
        ("hydra", {}),
        ("bimamba2", {}),
    ]


def _form(config: Mapping[str, Any], mixer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from statefilm.models import TemporalSSMUNet, temporal_parameters
    from statefilm.models.unet.cost import temporal_flops

    form = {name: value for name, value in config.items() if not name.startswith("_")}
    form |= {"temporal_mixer": mixer, "temporal_mixer_options": dict(options)}
    with torch.device("meta"):
        parameters = temporal_parameters(TemporalSSMUNet(**form))
    is_published = "bidirectional" not in options and (mixer == "s6" or "heads" in options)
    return {
        "temporal_mixer": mixer,
        "temporal_mixer_options": dict(options),
        "temporal_parameters": parameters,
        "published": PUBLISHED.get((config["dim"], mixer)) if is_published else None,
        "temporal_flops": [temporal_flops(form, size) for size in SIZES],
    }


def render(described: Mapping[str, Any]) -> str:
    """The description as a page of text."""
    parameters, step = described["parameters"], described["size_step"]
    multipliers = ", ".join(map(str, described["multipliers"]))
    lines = [
        described["name"],
        f"  parameters   {human(parameters)} ({parameters:,}), {parameters * 4 / 2**20:.1f} MiB in"
        " float32",
        f"  width        {described['dim']} times {multipliers}",
        f"  input        {described['in_channels']} channels of pixels, sides multiples of {step};"
        " any number of frames",
        f"  reads        {_conditions(described)}",
        f"  time axis    {_mixer(described)}",
    ]
    if described.get("components"):
        components = described["components"].items()
        lines.append(f"  components   {', '.join(f'{part} {human(n)}' for part, n in components)}")
    columns = [f"{frames} frames" for frames, _, _ in SIZES]
    _, height, width = SIZES[0]
    lines += ["", f"  parts, and FLOPs of one forward of one clip of {width}x{height}"]
    lines.append(_row("", "parameters", *columns))
    for part, count in described["parts"].items():
        flops = (cost["parts"].get(part, 0) for cost in described["costs"])
        lines.append(_row(part, f"{count:,}", *map(human, flops)))
    lines.append(_row("all", f"{parameters:,}", *(human(c["flops"]) for c in described["costs"])))
    if described.get("forms"):
        lines += ["", "  temporal layers by mixer, the same way"]
        lines.append(_row("", "parameters", *columns, "published"))
        lines += [_form_row(form) for form in described["forms"]]
    return "\n".join(lines)


def _conditions(described: Mapping[str, Any]) -> str:
    found = []
    if described["num_classes"] is not None:
        names = ", ".join(described.get("class_names") or [])
        found.append(f"{described['num_classes']} classes" + (f" ({names})" if names else ""))
    if described["text_dim"] is not None:
        found.append(f"text of width {described['text_dim']}")
    return " and ".join(found) or "noise alone"


def _mixer(described: Mapping[str, Any]) -> str:
    options = described["temporal_mixer_options"]
    given = ", ".join(f"{name} {value}" for name, value in options.items())
    return described["temporal_mixer"] + (f" ({given})" if given else "")


def _form_row(form: Mapping[str, Any]) -> str:
    options = form["temporal_mixer_options"]
    name = form["temporal_mixer"]
    if not options.get("bidirectional", True):
        name += ", one way"
    if "heads" in options:
        name += f", {options['heads']} heads"
    flops = map(human, form["temporal_flops"])
    return _row(name, f"{form['temporal_parameters']:,}", *flops, form["published"] or "")


def _row(name: str, parameters: str, *cells: str) -> str:
    return f"  {name:<32}{parameters:>13}{''.join(f'{cell:>13}' for cell in cells)}".rstrip()
