"""Does a model draw two things in the order named? python benchmarks/naming_order.py FOLDER.

Prompts of two things without a told relation, those of the image benchmark; of the pictures that
are right by the strict verdict, how many have the thing named first further left, or further up
where that is the greater distance, which is how `world.order: reading` names them.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from statefilm.data.world.tasks import load_prompts
from statefilm.evaluation.speed.report import table_file
from statefilm.evaluation.world.generation import generator
from statefilm.evaluation.world.reader import Reading, read_images
from statefilm.evaluation.world.runs import Generate, cycle
from statefilm.evaluation.world.statistics import wilson_interval
from statefilm.evaluation.world.verdicts import judge
from statefilm.pipelines import HTHPipeline, load_pipeline

TASKS = ("two_object", "color_attr")
SEED = 10_000  # of the first picture; the benchmark's own begin at 0
BATCH = 16


def main(args: list[str] | None = None) -> int:
    """Print the table, and write it to tables.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="world-64")
    parser.add_argument("--images", type=int, default=100, help="of each task, at least")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args(args)
    if asked.images < 1:
        parser.error(f"--images {asked.images} is not enough: at least 1 is needed")
    pipe = load_pipeline(asked.model, asked.dtype, asked.device, kind=HTHPipeline)
    pipe.set_progress_bar_config(disable=True)
    rows = list(measure(generator(pipe, 1), asked.images))
    print(table_file(asked.folder, f"{asked.model}, measured with", pipe.device, rows))
    return 0


def measure(generate: Generate, images: int) -> Iterator[dict[str, str]]:
    """A row for each task."""
    for task in TASKS:
        prompts = cycle([p for p in load_prompts("t2i") if p["tag"] == task], images)
        right: list[bool] = []
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            seeds = [SEED + start + i for i in range(len(batch))]
            frames = generate([p["prompt"] for p in batch], seeds)
            for reading, prompt in zip(read_images(frames[:, :, 0].float()), batch, strict=True):
                if judge(reading, prompt)["strict"]:
                    first, second = (need["class"] for need in prompt["include"])
                    right.append(in_order(reading, first, second))
        low, high = wilson_interval(sum(right), len(right))
        yield {
            "task": task,
            "images": str(len(prompts)),
            "strictly right": str(len(right)),
            "of these in order": str(sum(right)),
            "95 % interval": f"{low:.3f} to {high:.3f}",
        }


def in_order(reading: Reading, first: str, second: str) -> bool:
    """Whether the thing of the first shape lies before that of the second."""
    one, other = (next(t for t in reading.objects if t.shape == s) for s in (first, second))
    return one.x + one.y <= other.x + other.y


if __name__ == "__main__":
    sys.exit(main())
