"""Smaller questions on speed and memory: python benchmarks/cpu_studies.py FOLDER [--tiny].

Each part answers one, as a table in FOLDER/tables.md; --parts names some of them.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn

from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.denoiser import (
    draw,
    forward,
    image_of_tokens,
    make_denoiser,
    with_text_read,
)
from statefilm.evaluation.speed.report import markdown, milliseconds
from statefilm.evaluation.speed.timing import Protocol, Run, interleave, reason
from statefilm.mixers.attention import direct_attention
from statefilm.ops import chunking
from statefilm.ops.quasiseparable.chunked import quasiseparable_chunked
from statefilm.pipelines import load_pipeline
from statefilm.pipelines.sampling import seed_generators
from statefilm.scans import get_scan

Rows = Iterator[dict[str, str]]
CPU = torch.device("cpu")
SCANS = ("H", "V", "HT", "VT", "TH", "TV", "diagonal", "spiral", "hilbert", "random")
PROMPTS = ("a red circle", "a green square above a blue triangle", "three yellow crosses")


def attention_keys(tiny: bool) -> Rows:
    """Attention of 32 x 64 queries to few keys, forward and backward: SDPA and the direct form."""
    for keys in (16,) if tiny else (16, 32, 64, 128, 256, 512):
        drawn = torch.Generator().manual_seed(0)
        inputs = [
            torch.randn(1 if tiny else 32, length, 4, 64, generator=drawn)
            .bfloat16()
            .transpose(1, 2)
            .requires_grad_()
            for length in (64, keys, keys)
        ]
        fused, direct = medians(
            partial(with_gradients, F.scaled_dot_product_attention, inputs),
            partial(with_gradients, direct_attention, inputs),
            rounds=2 if tiny else 7,
        )
        yield {"keys": str(keys), **pair("SDPA", fused, "direct", direct)}


def chunk_sizes(tiny: bool) -> Rows:
    """The chunked form of quasiseparable by its chunk, d 1024, heads of 64, N 64; milliseconds."""
    sizes = (16, 32) if tiny else (32, 64, 128, 256)
    heads, state = (2, 16) if tiny else (16, 64)
    for dtype in (torch.float32, torch.bfloat16):
        for length in (48,) if tiny else (1024, 4096, 16384):
            inputs = op_inputs(length, heads, state, dtype)
            runs = [partial(chunked, size, inputs, gradients=False) for size in sizes]
            runs += [partial(chunked, size, inputs, gradients=True) for size in sizes]
            spent = medians(*runs, rounds=2 if tiny else 3)
            row = {"dtype": machine.name_of(dtype), "tokens": str(length)}
            for name, seconds in (("forward", spent), ("+backward", spent[len(sizes) :])):
                pairs = zip(sizes, seconds, strict=False)
                row |= {f"{name} {size}": milliseconds(one) for size, one in pairs}
            yield row


def scan_orders(tiny: bool) -> Rows:
    """Bringing tokens of width 896 from raster order into a scan's and back, beside a copy."""
    grids = {"image": (1, 4, 4)} if tiny else {"image": (1, 64, 64), "clip": (16, 16, 16)}
    for kind, grid in grids.items():
        raster = get_scan("thw", *grid)
        tokens = torch.randn(1, *grid, 896).bfloat16().flatten(1, 3)
        scans = [get_scan(name, *grid) for name in SCANS]
        moves = [partial(there_and_back, raster, scan, tokens) for scan in scans]
        copied, *spent = medians(lambda t=tokens: t.clone(), *moves, rounds=2 if tiny else 7)
        for name, seconds in zip(SCANS, spent, strict=True):
            ratio = f"{seconds / (2 * copied):.2f}"
            yield {"tokens": kind, "scan": name, "ms": milliseconds(seconds), "x 2 copies": ratio}


def guidance_batching(tiny: bool) -> Rows:
    """Guidance in one forward of two samples, or in two of one."""
    preset = "hth_tiny" if tiny else "hth_300m"
    model = make_denoiser(preset, torch.bfloat16, CPU)
    for tokens in (16,) if tiny else (64, 256, 1024, 4096):
        latents = image_of_tokens(tokens, model.config.patch_size)
        both, one = (with_text_read(model, draw(model, latents, batch)) for batch in (2, 1))
        together, alone = medians(
            partial(forward, model, both), partial(twice, model, one), rounds=2 if tiny else 5
        )
        yield {
            "model": preset,
            "tokens": str(tokens),
            **pair("two forwards", alone, "one of both", together),
        }


def step_cache(tiny: bool) -> Rows:
    """First-block caching with the bundled model: what it saves and what it changes."""
    pipe = load_pipeline("world-64", "float32", "cpu")
    pipe.set_progress_bar_config(disable=True)
    steps = 2 if tiny else pipe.config.default_steps
    for kind, frames in (("image", 1),) if tiny else (("image", 1), ("clip", 17)):
        exact = generate(pipe, frames, steps)
        for threshold in (0.1,) if tiny else (0.05, 0.1, 0.15, 0.2, 0.3):
            config = FirstBlockCacheConfig(threshold=threshold)
            pipe.transformer.enable_cache(config)
            ran = calls_of(pipe.transformer.blocks[1], partial(generate, pipe, frames, steps))
            change = generate(pipe, frames, steps) - exact
            pipe.transformer.disable_cache()
            plain, cached = medians(
                partial(generate, pipe, frames, steps),
                partial(generate_cached, pipe, frames, steps, config),
                rounds=1 if tiny else 3,
            )
            yield {
                "what": f"{len(PROMPTS)} {kind}s",
                "threshold": f"{threshold:g}",
                "steps left out": f"{steps - ran} of {steps}",
                "time": f"{plain / cached:.2f} x as fast",
                "RMS change / deviation": f"{change.square().mean().sqrt() / exact.std():.3f}",
            }


def saved_activations(tiny: bool) -> Rows:
    """What a block keeps for its backward in bfloat16; with checkpointing, its input alone."""
    preset = "hth_tiny" if tiny else "hth_300m"
    model = make_denoiser(preset, torch.bfloat16, CPU, sets=1)
    for tokens in (16,) if tiny else (256, 1024, 4096):
        inputs = draw(model, image_of_tokens(tokens, model.config.patch_size), 1)
        for index in (0, len(model.blocks) - 1):
            saved = bytes_saved(model, model.blocks[index], inputs)
            yield {
                "model": preset,
                "mixer of the block": model.config.plan[index]["mixer"],
                "tokens": str(tokens),
                "MiB": f"{saved / 2**20:.2f}",
                "bytes a token and channel": f"{saved / tokens / model.config.dim:.1f}",
            }


PARTS: dict[str, Callable[[bool], Rows]] = {
    "attention-keys": attention_keys,
    "chunk-sizes": chunk_sizes,
    "scan-orders": scan_orders,
    "guidance-batching": guidance_batching,
    "step-cache": step_cache,
    "saved-activations": saved_activations,
}


def main(args: list[str] | None = None) -> int:
    """Run the parts, renewing tables.md after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that all parts run")
    asked = parser.parse_args(args)
    asked.folder.mkdir(parents=True, exist_ok=True)
    failed = []
    with machine.threads(asked.threads):
        sections = [f"Measured with {machine.line(machine.describe(CPU))}."]
        for name in asked.parts:
            print(name, file=sys.stderr, flush=True)
            try:
                rows = list(PARTS[name](asked.tiny))
            except Exception as error:  # one part that fails must not lose the others
                print(f"{name} failed: {reason(error)}", file=sys.stderr)
                failed.append(name)
                continue
            columns = [(key, lambda row, key=key: row[key]) for key in rows[0]]
            table = "\n".join(markdown(columns, rows))
            sections.append(f"## {name}\n\n{PARTS[name].__doc__}\n\n{table}")
            (asked.folder / "tables.md").write_text("\n\n".join(sections) + "\n", "utf-8")
    return 3 if failed else 0


def medians(*runs: Run, rounds: int) -> list[float]:
    """Seconds of each, in turns."""
    timings, failures = interleave({str(i): run for i, run in enumerate(runs)}, Protocol(rounds))
    if failures:
        raise RuntimeError(f"a contestant failed: {next(iter(failures.values()))}")
    return [timings[str(i)].median for i in range(len(runs))]


def pair(first: str, a: float, second: str, b: float) -> dict[str, str]:
    """Columns of two times and their ratio."""
    return {
        f"{first} ms": milliseconds(a),
        f"{second} ms": milliseconds(b),
        f"{first} / {second}": f"{a / b:.2f}",
    }


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Forward and all gradients."""
    y = function(*inputs)
    torch.autograd.grad(y, inputs, torch.ones_like(y))


def op_inputs(length: int, heads: int, state: int, dtype: torch.dtype) -> list[Tensor]:
    """x, dt, log-decays, B and C of `quasiseparable_chunked`, with gradients wanted."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, heads, 64, generator=drawn).to(dtype)
    dt = torch.rand(1, length, 2, heads, generator=drawn) * 0.1
    B, C = torch.randn(2, 1, length, 2, 1, state, generator=drawn).to(dtype)
    return [t.requires_grad_() for t in (x, dt, -dt, B, C)]


def chunked(size: int, inputs: list[Tensor], gradients: bool) -> None:
    """The chunked form with another chunk than its own."""
    with mock.patch.object(chunking, "CHUNK_SIZE", size):
        if gradients:
            with_gradients(_without_diagonal, inputs)
        else:
            with torch.no_grad():
                _without_diagonal(*inputs)


def _without_diagonal(*inputs: Tensor) -> Tensor:
    return quasiseparable_chunked(*inputs, None)


def there_and_back(raster, scan, tokens: Tensor) -> Tensor:
    """As the denoiser moves tokens where the scan changes, twice."""
    walked = scan.apply(raster.invert(tokens))
    return raster.apply(scan.invert(walked))


def twice(model: nn.Module, inputs: dict) -> None:
    """The forward, as guidance without a batch of two needs it."""
    forward(model, inputs)
    forward(model, inputs)


def generate(pipe, frames: int, steps: int) -> Tensor:
    """The samples of `PROMPTS`, [B, 3, T, H, W] in float32."""
    generators = seed_generators(0, len(PROMPTS))
    options = {"num_frames": frames, "num_inference_steps": steps, "output_type": "latent"}
    return pipe(list(PROMPTS), generator=generators, **options).frames


def generate_cached(pipe, frames: int, steps: int, config: FirstBlockCacheConfig) -> Tensor:
    """The same with first-block caching."""
    pipe.transformer.enable_cache(config)
    try:
        return generate(pipe, frames, steps)
    finally:
        pipe.transformer.disable_cache()


def calls_of(module: nn.Module, run: Run) -> int:
    """How often a cached generation really runs a block."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    hook = module.mixer.register_forward_hook(counted)
    run()
    hook.remove()
    return count


def bytes_saved(model: nn.Module, block: nn.Module, inputs: dict) -> int:
    """Distinct storage that one block's forward keeps for the backward, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}
    inside = False

    def pack(tensor: Tensor) -> Tensor:
        if inside and tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    hooks = [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


if __name__ == "__main__":
    sys.exit(main())
