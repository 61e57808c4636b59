"""Cost of one denoiser forward from its config alone: tokens, operations and memory.

Counted are the operations of matrix products, convolutions and scans, two for a multiply-add;
elementwise work, norms, the mixers' depthwise convolutions and S4D's Fourier transforms are left
out.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from statefilm.mixers import MIXERS
from statefilm.models.blocks import CROSS as CROSS_ATTENTION
from statefilm.models.blocks import SUBLAYERS
from statefilm.ops.quasiseparable.core import forward_flops as quasiseparable_flops
from statefilm.ops.selective_scan.core import forward_flops as scan_flops
from statefilm.ops.ssd.chunked import forward_flops as ssd_flops

TIME_FEATURES = 256
# Numbers alive at the peak of a block, by mixer, for each token and number of its inner width.
_LIVE = {
    "hydra": 18,
    "bimamba2": 27,
    "linear_attention": 14,
    "attention": 12,
    "s4d": 20,
    "s6": 12,
    "temporal_attention": 8,
    "temporal_linear_attention": 8,
}
# And for each head and pair of tokens, where the scores take a bias.
_LIVE_PAIRS = 3.5
CROSS, FEED_FORWARD, ENDS, CONDITION = "cross-attention", "feed-forward", "patches", "timestep"
PREFIX = "text prefix"


def token_grid(config: Mapping[str, Any], size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tokens along (T, H, W) for latents (or pixels) of that size.

    Raises:
        ValueError: the patch does not divide the size.
    """
    (frames, height, width), (t, h, w) = size, config["patch_size"]
    if frames < 1 or (frames - 1) % t or height % h or width % w:
        raise ValueError(f"patches of {t}x{h}x{w} do not divide {frames}x{height}x{width}")
    return 1 + (frames - 1) // t, height // h, width // w


def forward_flops(
    config: Mapping[str, Any], size: tuple[int, int, int], text_tokens: int = 128
) -> dict[str, int]:
    """Operations of one forward of one sample, by part; their sum is the whole.

    Args:
        config: of an `HTHTransformer`, all fields present.
        size: (frames, rows, columns) of the latents, or of the pixels without a VAE.
        text_tokens: length of the text states.

    Returns:
        Part to operations: each kind of mixer by its name, "cross-attention", "feed-forward",
        "patches" (embedding and head), "timestep" and "text prefix", where there is one.

    Raises:
        ValueError: the patch does not divide the size.
    """
    grid = token_grid(config, size)
    length, dim = _sequence_length(config, grid), config["dim"]
    sublayers = SUBLAYERS[config["cross_attention"]]
    parts: Counter[str] = Counter()
    for block in config["plan"]:
        name = block["mixer"]
        parts[name] += mixer_flops(name, length, dim, _given_options(config, name))
        if CROSS_ATTENTION in sublayers:
            read = length * dim + text_tokens * (config["text_dim"] + length)
            parts[CROSS] += 4 * dim * read
        parts[FEED_FORWARD] += 4 * length * dim * (config["ff_dim"] or 4 * dim)
    parts[ENDS] += _patch_flops(config, grid, size)
    parts[CONDITION] += 2 * dim * (TIME_FEATURES + dim)
    if config["conditioning"] == "adaln_single":
        parts[CONDITION] += 2 * dim * 3 * len(sublayers) * dim
    if config["text_prefix"]:
        parts[PREFIX] += 2 * text_tokens * config["text_dim"] * dim
    return dict(parts)


def activation_bytes(
    config: Mapping[str, Any], size: tuple[int, int, int], itemsize: int = 4
) -> int:
    """Peak memory of one forward of one sample without gradients, beside weights and input.

    The factors are measured on a CPU; the result is right within a factor of 1.5.

    Args:
        config, size: as for `forward_flops`.
        itemsize: bytes of a number in the compute dtype.
    """
    tokens = _sequence_length(config, token_grid(config, size))
    mixers = {block["mixer"] for block in config["plan"]}
    in_block = max(
        round(mixer_numbers(name, tokens, config["dim"], _given_options(config, name)))
        for name in mixers
    )
    if config["patch_embed"] != "conv":
        return itemsize * in_block
    maps = math.prod(size) * config["patch_width"]  # one at full resolution
    return itemsize * round(max(in_block + 2 * maps, 5.5 * maps))


def _sequence_length(config: Mapping[str, Any], grid: tuple[int, int, int]) -> int:
    """What the blocks mix: the tokens of the grid, slots of the text and registers."""
    return math.prod(grid) + int(config["text_prefix"]) + int(config["registers"])


def mixer_flops(name: str, length: int, dim: int, options: Mapping[str, Any]) -> int:
    """Operations of a mixer of `MIXERS` for one sequence; arguments as of `mixer_numbers`."""
    return _MIXER_FLOPS[name](length, dim, _all_options(name, options))


def mixer_numbers(name: str, length: int, dim: int, options: Mapping[str, Any]) -> float:
    """Numbers alive at the peak of a mixer of `MIXERS`, for one sequence, measured on a CPU.

    Args:
        length, dim: of the sequence.
        options: of the mixer's constructor, over its defaults.
    """
    options = _all_options(name, options)
    width = options["heads"] * options["head_dim"] if "heads" in options else dim
    pairs = options["heads"] * length**2 if options.get("relative_bias") else 0
    return _LIVE[name] * options.get("expand", 1) * width * length + _LIVE_PAIRS * pairs


def _given_options(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return (config["mixer_options"] or {}).get(name, {})


def _all_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(MIXERS[name])
    defaults = {
        key: parameter.default
        for key, parameter in signature.parameters.items()
        if parameter.default is not parameter.empty
    }
    return {**defaults, **options}


def _hydra(length: int, dim: int, options: Mapping[str, Any]) -> int:
    inner, state, groups = options["expand"] * dim, options["state_dim"], options["groups"]
    heads = inner // options["head_dim"]
    projections = dim * (2 * inner + 4 * groups * state + 2 * heads) + inner * heads + inner * dim
    op = quasiseparable_flops(1, length, heads, options["head_dim"], groups, state)
    return 2 * length * projections + op


def _bimamba2(length: int, dim: int, options: Mapping[str, Any]) -> int:
    inner, state, groups = options["expand"] * dim, options["state_dim"], options["groups"]
    heads = inner // options["head_dim"]
    projections = dim * (2 * inner + 4 * groups * state + 2 * heads) + inner * dim
    op = ssd_flops(1, length, 2 * heads, options["head_dim"], 2 * groups, state)
    return 2 * length * projections + op


def _linear_attention(length: int, dim: int, options: Mapping[str, Any]) -> int:
    return 2 * length * dim * (5 * dim + 2 * options["head_dim"] + 1)


def _attention(length: int, dim: int, options: Mapping[str, Any]) -> int:
    return 2 * length * dim * (4 * dim + 2 * length)


def _s4d(length: int, dim: int, options: Mapping[str, Any]) -> int:
    ways = 1 + options["bidirectional"]
    return 2 * length * dim * (2 * dim * ways + 2 * options["hidden_dim"])


def _s6(length: int, dim: int, options: Mapping[str, Any]) -> int:
    inner, state, ways = options["expand"] * dim, options["state_dim"], 1 + options["bidirectional"]
    rank = options["dt_rank"] or math.ceil(inner / 16)
    steps = 2 * length * inner * (2 * rank + 2 * state)
    return 6 * length * dim * inner + ways * (steps + scan_flops(1, length, inner, state))


def _temporal_attention(length: int, dim: int, options: Mapping[str, Any]) -> int:
    inner = options["heads"] * options["head_dim"]
    return 2 * length * inner * (4 * dim + 2 * length)


def _temporal_linear_attention(length: int, dim: int, options: Mapping[str, Any]) -> int:
    inner = options["heads"] * options["head_dim"]
    return 2 * length * inner * (4 * dim + 2 * options["head_dim"])


_MIXER_FLOPS: dict[str, Callable[[int, int, Mapping[str, Any]], int]] = {
    "hydra": _hydra,
    "bimamba2": _bimamba2,
    "linear_attention": _linear_attention,
    "attention": _attention,
    "s4d": _s4d,
    "s6": _s6,
    "temporal_attention": _temporal_attention,
    "temporal_linear_attention": _temporal_linear_attention,
}


def _patch_flops(
    config: Mapping[str, Any], grid: tuple[int, int, int], size: tuple[int, int, int]
) -> int:
    """Patch embedding and head: the linear layers, and the convolutions of `ConvPatch`."""
    (frames, height, width), (patch_t, patch_h, patch_w) = size, config["patch_size"]
    channels = config["in_channels"]
    features, convolutions = channels * patch_h * patch_w, 0
    if config["patch_embed"] == "conv":
        widths = [config["patch_width"] * 2**level for level in range(patch_h.bit_length())]
        features = widths[-1]
        convolutions = 2 * 9 * height * width * channels * widths[0]  # stem and head
        for level, (fine, coarse) in enumerate(pairwise(widths)):
            pixels = height * width // 4**level
            convolutions += pixels // 4 * coarse * fine * (9 + 4)  # down, and up before shuffling
            convolutions += pixels * 9 * fine * fine
    linear = 2 * math.prod(grid) * patch_t * features * config["dim"]
    return 2 * (linear + frames * convolutions)
