"""Does loading keep up with training? python benchmarks/data_loading.py FOLDER [--tiny].

Samples a second of one loading process from each kind of data at 64 x 64, beside those that a
training step of `hth_tiny` consumes, on pixels and on the latents of a small VAE.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from statefilm.cli.main import run
from statefilm.data.world import sample_batch
from statefilm.evaluation.speed.report import table_file
from statefilm.evaluation.speed.timing import Protocol, interleave
from statefilm.models.vae import build_vae
from statefilm.pipelines.media import save_png
from statefilm.training import Recipe, load_recipe
from statefilm.training.optim import Optimizers
from statefilm.training.parallel import Ranks
from statefilm.training.tasks import Task, build_task

CPU = torch.device("cpu")
LATENT_MODEL = "model.overrides={in_channels: 8, patch_size: [1, 2, 2], patch_embed: plain}"


def main(args: list[str] | None = None) -> int:
    """Print the table, and write it to tables.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that it runs")
    asked = parser.parse_args(args)
    with TemporaryDirectory() as work:
        rows = list(measure(Path(work), asked.tiny))
    print(table_file(asked.folder, "Measured with", CPU, rows))
    return 0


def measure(work: Path, tiny: bool) -> Iterator[dict[str, str]]:
    """A row for each kind of data."""
    write_pictures(work / "pictures", 16 if tiny else 2000)
    build_vae("world_vae").save_pretrained(work / "vae")
    size = 4 if tiny else 64
    files = f"data=[{{files: {{path: {work / 'pictures'}, ratios: [1]}}, batch_size: {size}}}]"
    encoded = [files, f"vae={work / 'vae'}", LATENT_MODEL]
    if run(["encode", "own_images", *encoded, "--output", str(work / "latents"), "--quiet"]):
        raise RuntimeError("encoding failed")
    latents = f"data=[{{latents: {{path: {work / 'latents'}}}, batch_size: {size}}}]"
    world = f"data=[{{world: {{size: 64}}, batch_size: {size}}}]"
    for name, changes in (
        ("cached latents", [latents, f"vae={work / 'vae'}", LATENT_MODEL]),
        ("PNG files", [files]),
        ("the world, drawn", [world]),
    ):
        recipe = load_recipe("own_images", changes)
        yield row_of(name, recipe, size, rounds=2 if tiny else 7)


def write_pictures(folder: Path, number: int) -> None:
    """Captioned scenes as files."""
    folder.mkdir()
    world = sample_batch(0, 0, number, size=64, num_frames=1)
    pixels = (world.frames[:, :, 0].permute(0, 2, 3, 1) + 1).mul(127.5).round().byte().numpy()
    for index, (image, caption) in enumerate(zip(pixels, world.captions, strict=True)):
        save_png(Image.fromarray(image), folder / f"{index:05d}.png")
        (folder / f"{index:05d}.txt").write_text(caption, "utf-8")


def row_of(name: str, recipe: Recipe, size: int, rounds: int) -> dict[str, str]:
    """Loading and stepping in turns."""
    task = build_task(recipe, CPU, Ranks())
    optimizers = Optimizers(task.modules, recipe.optimizer)
    steps = count()
    runs = {
        "load": lambda: task.batches[next(steps)],
        "step": partial(step, recipe, task, optimizers, task.batches[0]),
    }
    timings, failures = interleave(runs, Protocol(rounds, min_seconds=0.5))
    if failures:
        raise RuntimeError(next(iter(failures.values())))
    loaded, stepped = (size / timings[kind].median for kind in ("load", "step"))
    return {
        "data": name,
        "loaded a second": f"{loaded:.0f}",
        "trained a second": f"{stepped:.1f}",
        "ratio": f"{loaded / stepped:.1f}",
    }


def step(recipe: Recipe, task: Task, optimizers: Optimizers, batch) -> None:
    """One update, as the trainer makes it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        loss = task.loss(batch)
    loss.backward()
    optimizers.step(1.0)
    optimizers.zero_grad()


if __name__ == "__main__":
    sys.exit(main())
