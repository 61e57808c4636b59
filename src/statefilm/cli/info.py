"""`statefilm info`: what a model is and what one denoising step costs, without its weights."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from statefilm.cli import options
from statefilm.cli.errors import CommandError, one_line
from statefilm.errors import suggest

# Name, frames, height, width in pixels; each is fitted to what the model's patches divide.
SIZES = [
    ("1K image", 1, 1024, 1024),
    ("2K image", 1, 2048, 2048),
    ("180p x 128", 128, 180, 320),
    ("360p x 128", 128, 360, 640),
]
TEXT_TOKENS = 128
PUBLISHED_VAE = (4, 8, 8)  # what a preset with latent channels stands on


def info(
    model: Annotated[str, typer.Argument(help="A preset, a bundled model or a local folder.")],
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Print parameters, plan and cost of a model.

    Tokens and FLOPs are given for images of 1K and 2K and clips of 180p and 360p, those of video
    U-Nets for clips of 64 px; weights are not loaded.
    """
    from statefilm.cli import info_unet
    from statefilm.models import PRESETS, UNET_PRESETS

    if model in PRESETS:
        described = _describe_preset(model)
    elif model in UNET_PRESETS:
        described = info_unet.describe_preset(model)
    else:
        folder = _find_folder(model)
        is_unet = (folder / "unet" / "config.json").is_file()
        described = (info_unet.describe_folder if is_unet else _describe_folder)(model, folder)
    page = info_unet.render if "temporal_mixer" in described else render
    print(json.dumps(described) if as_json else page(described))


def _find_folder(name: str) -> Path:
    from statefilm.models import PRESETS, UNET_PRESETS
    from statefilm.pipelines import bundled_models, resolve_model

    if not Path(name).exists() and name not in bundled_models() and len(Path(name).parts) == 1:
        raise suggest(name, [*bundled_models(), *PRESETS, *UNET_PRESETS], "model or preset")
    return resolve_model(name)


def _describe_preset(name: str) -> dict[str, Any]:
    import torch

    from statefilm.models import build

    with torch.device("meta"):
        denoiser = build(name)
    pixels = denoiser.config.in_channels == 3
    return describe(name, denoiser, (1, 1, 1) if pixels else PUBLISHED_VAE)


def _describe_folder(name: str, folder: Path) -> dict[str, Any]:
    import torch

    from statefilm.models import HTHTransformer

    if not (folder / "transformer" / "config.json").is_file():
        raise CommandError(f"{folder}: not a model folder, it has no transformer/config.json")
    config = load_config(HTHTransformer, folder / "transformer")
    with torch.device("meta"):
        denoiser = HTHTransformer.from_config(config)
    described = describe(name, denoiser, _vae_factors(folder / "vae"))
    described["parts"] = parameters_of_parts(folder)
    return described


def describe(name: str, denoiser: Any, vae: tuple[int, int, int]) -> dict[str, Any]:
    """What `info` prints, as plain data.

    Args:
        denoiser: an `HTHTransformer`, on any device.
        vae: frames, rows and columns of pixels that make one latent.
    """
    from statefilm.models.flops import forward_flops, token_grid

    config = denoiser.config
    costs = []
    for label, *pixels in SIZES:
        latents, fitted = fit(tuple(pixels), vae, config["patch_size"])
        parts = forward_flops(config, latents, TEXT_TOKENS)
        grid = token_grid(config, latents)
        costs.append(
            {
                "size": label,
                "pixels": fitted,
                "grid": grid,
                "tokens": math.prod(grid),
                "flops": sum(parts.values()),
                "parts": parts,
            }
        )
    return {
        "name": name,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "dim": config["dim"],
        "in_channels": config["in_channels"],
        "patch_size": list(config["patch_size"]),
        "vae_factors": list(vae),
        "text_dim": config["text_dim"],
        "plan": config["plan"],
        "text_tokens": TEXT_TOKENS,
        "costs": costs,
    }


def fit(
    pixels: Sequence[int], vae: Sequence[int], patch: Sequence[int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The latents and pixels nearest to `pixels` that VAE and patches divide; not fewer frames."""
    frames, height, width = pixels
    groups = -(-(frames - 1) // (vae[0] * patch[0]))
    rows, columns = (
        max(1, round(side / (vae[axis] * patch[axis]))) * patch[axis]
        for axis, side in ((1, height), (2, width))
    )
    latents = (1 + groups * patch[0], rows, columns)
    return latents, (1 + groups * patch[0] * vae[0], rows * vae[1], columns * vae[2])


def _vae_factors(folder: Path) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels that make one latent of the VAE in `folder`, if any."""
    import diffusers
    import torch

    from statefilm.models.vae import compression, find_vae_class

    if not (folder / "config.json").is_file():
        return 1, 1, 1
    config = load_config(diffusers.AutoencoderKL, folder)
    name = config.get("_class_name", "")
    vae_class = find_vae_class(name)
    if vae_class is None:
        raise CommandError(f"{folder}: {name!r} is not an AutoencoderKL of diffusers")
    with torch.device("meta"):
        time, space = compression(vae_class.from_config(config))
    return time, space, space


def load_config(kind: Any, folder: Path) -> dict[str, Any]:
    """The config of a diffusers model.

    Raises:
        CommandError: it cannot be read.
    """
    try:
        return kind.load_config(folder, local_files_only=True)
    except OSError:
        raise CommandError(f"{folder / 'config.json'}: damaged JSON") from None


def parameters_of_parts(folder: Path) -> dict[str, int]:
    """Parameters of each component of a folder, read from the headers of its safetensors."""
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    for file in sorted(folder.glob("*/*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                for key in weights.keys():  # noqa: SIM118  (no mapping)
                    counts[file.parent.name] += math.prod(weights.get_slice(key).get_shape())
        except SafetensorError as error:
            raise CommandError(f"{file}: damaged or truncated ({one_line(error)})") from None
    return dict(counts)


def render(described: Mapping[str, Any]) -> str:
    """The description as a page of text."""
    patch = "x".join(map(str, described["patch_size"]))
    vae = "x".join(map(str, described["vae_factors"]))
    codec = "pixels (no VAE)" if vae == "1x1x1" else f"latents, 1 for {vae} pixels (t x h x w)"
    plan = described["plan"]
    parameters = described["parameters"]
    lines = [
        described["name"],
        f"  parameters   {human(parameters)} ({parameters:,}), {parameters * 2 / 2**30:.2f} GiB in"
        " bfloat16",
        f"  width        {described['dim']}, text {described['text_dim']}",
        f"  input        {described['in_channels']} channels of {codec}; patch {patch}",
        f"  plan         {len(plan)} blocks: {_mixers(plan)}",
    ]
    lines += [f"    {line}" for line in plan_lines(plan)]
    if described.get("parts"):
        parts = ", ".join(f"{part} {human(n)}" for part, n in described["parts"].items())
        lines.append(f"  components   {parts}")
    lines += ["", f"  one forward of one sample, {described['text_tokens']} text tokens"]
    lines.append(f"  {'size':<12}{'pixels':<16}{'tokens (t x h x w)':<26}{'FLOPs':>10}  where")
    lines += [f"  {_cost_line(cost)}" for cost in described["costs"]]
    return "\n".join(lines)


def _mixers(plan: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(b["mixer"] for b in plan).items())


def plan_lines(plan: Sequence[Mapping[str, str]]) -> list[str]:
    """The plan with runs of blocks on a line: numbers, mixer, scans in images and in videos."""
    lines, start = [], 0
    for mixer, run in groupby(plan, key=lambda block: block["mixer"]):
        blocks = list(run)
        span = f"{start + 1}-{start + len(blocks)}" if len(blocks) > 1 else f"{start + 1}"
        image, video = ([b[f"{k}_scan"] for b in blocks] for k in ("image", "video"))
        scans = " ".join(image) + ("" if image == video else f"  in videos {' '.join(video)}")
        lines.append(f"{span:<7}{mixer:<12}{scans}")
        start += len(blocks)
    return lines


def _cost_line(cost: Mapping[str, Any]) -> str:
    frames, height, width = cost["pixels"]
    pixels = f"{width}x{height}" + (f"x{frames}" if frames > 1 else "")
    tokens = f"{cost['tokens']:,} ({' x '.join(map(str, cost['grid']))})"
    shares = sorted(cost["parts"].items(), key=lambda part: -part[1])[:4]
    where = ", ".join(f"{name} {100 * n / cost['flops']:.0f} %" for name, n in shares)
    return f"{cost['size']:<12}{pixels:<16}{tokens:<26}{human(cost['flops']):>10}  {where}"


def human(number: float, suffixes: Sequence[str] = ("", "K", "M", "B", "T", "P", "E", "Z")) -> str:
    """A count with three digits and a suffix, one for each power of 1000: 4.98B, 35.4T."""
    place = 0
    while number >= 999.5 and place < len(suffixes) - 1:
        number, place = number / 1000, place + 1
    return f"{number:.3g}{suffixes[place]}"
