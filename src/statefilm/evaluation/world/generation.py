"""A pipeline as the protocols call it."""

from collections.abc import Callable
from typing import Any

import torch

from statefilm.pipelines import HTHPipeline


def generator(
    pipe: HTHPipeline, num_frames: int, **settings: Any
) -> Callable[[list[str], list[int]], torch.Tensor]:
    """Prompts and seeds to frames [N, 3, num_frames, H, W] in [-1, 1].

    Args:
        settings: further arguments of each call of the pipeline.
    """

    def generate(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        output: Any = pipe(
            prompts,
            num_frames=num_frames,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
            **settings,
        )
        frames: torch.Tensor = output.frames
        return frames.transpose(1, 2) * 2 - 1

    return generate
