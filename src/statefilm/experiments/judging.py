"""How a trained arm is judged: by the world's benchmarks, or as clips of a world of laws.

Pipelines draw at the precision that their recipe trains with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from statefilm.data.world.sample import legible_shapes
from statefilm.evaluation.clips import clip_generator, evaluate_clips
from statefilm.evaluation.world import Results, evaluate_t2i, evaluate_t2v, generator
from statefilm.evaluation.world.runs import Generate
from statefilm.evaluation.world.seams import mean_seams
from statefilm.experiments.study import ClipMeasures, DiffusionRecipe, Measures, Study
from statefilm.pipelines import HTHPipeline, VideoDiffusionPipeline, load_pipeline
from statefilm.pipelines.media import make_grid, save_png
from statefilm.pipelines.sampling import seed_generators

SAMPLE_PROMPTS = ("a red circle", "a green square", "a blue circle and a yellow triangle")
SAMPLE_CLIPS = ("a red circle moves left", "a green square moves up", "a cyan triangle grows")
SHOWN = 3  # clips of the picture


def judge_world(study: Study, recipe: DiffusionRecipe, trained: Path, samples: Path) -> Results:
    """The benchmarks of the world, and a picture of samples for each size of images.

    Args:
        trained: the folder of the pipeline.
        samples: the picture's file; at another size than the trained one, "@" and the scale end its
            stem.
    """
    assert isinstance(study.measures, Measures)
    pipe = load_pipeline(trained, recipe.precision, "cpu", kind=HTHPipeline)
    pipe.set_progress_bar_config(disable=True)
    measures, size = study.measures, recipe.data[0].drawn.size
    results = Results({})
    for scale, count in measures.images.items():
        wanted, at = round(scale * size), at_scale(scale)
        picture = samples.with_stem(f"{samples.stem}{at}")
        _save_samples(recipe, sample_prompts(measures), pipe, wanted, picture)
        make, images = _kept(generator(pipe, 1, height=wanted, width=wanted))
        found = evaluate_t2i(
            make,
            images_per_task=count,
            tasks=measures.tasks,
            shapes=legible_shapes(size),
            zoom=scale,
        )
        if measures.seams:
            found |= Results({"seams": mean_seams(images, pipe.transformer.config.patch_size[1:])})
        if at:
            found = Results({f"{name}{at}": value for name, value in found.metrics.items()})
        results |= found
    if measures.clips:
        frames = max(stream.drawn.num_frames for stream in recipe.data)
        results |= evaluate_t2v(
            generator(pipe, frames), clips=measures.clips, shapes=legible_shapes(size)
        )
    return results


def at_scale(scale: float) -> str:
    """What the names of figures and pictures end in, by their size as a multiple of the trained
    one."""
    return "" if scale == 1 else f"@{scale:g}"


def _kept(make: Generate) -> tuple[Generate, list[torch.Tensor]]:
    """A generator of images, and the list of what it will have made, [n, 3, H, W] each."""
    images: list[torch.Tensor] = []

    def generate(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        frames = make(prompts, seeds)
        images.append(frames[:, :, 0].float().cpu())
        return frames

    return generate, images


def sample_prompts(measures: Measures) -> list[str]:
    """The prompts of the pictures of samples, the same in every arm of a study."""
    return list(SAMPLE_CLIPS if measures.clips else SAMPLE_PROMPTS)


def _save_samples(
    recipe: DiffusionRecipe, prompts: list[str], pipe: HTHPipeline, side: int, file: Path
) -> None:
    """A row of images, or of frames of clips, from the same seeds in every arm."""
    frames = max(stream.drawn.num_frames for stream in recipe.data)
    made: Any = pipe(
        prompts,
        num_frames=frames,
        height=side,
        width=side,
        generator=seed_generators(0, len(prompts)),
    )
    clips = [[image] for image in made.images] if frames == 1 else made.frames
    shown = [clip[moment] for clip in clips for moment in range(0, frames, 4)]
    save_png(make_grid(shown, columns=len(shown)), file, force=True)


def judge_clips(study: Study, recipe: DiffusionRecipe, trained: Path, samples: Path) -> Results:
    """FVD-rand128 and the readings of generated clips, and a picture of some; see `judge_world`."""
    measures, section = study.measures, recipe.data[0].clips
    assert isinstance(measures, ClipMeasures) and section is not None
    pipe = load_pipeline(trained, recipe.precision, "cpu", kind=VideoDiffusionPipeline)
    pipe.set_progress_bar_config(disable=True)
    make = clip_generator(
        pipe, section.num_frames, num_inference_steps=measures.steps, sampler="ddim"
    )
    results, clips = evaluate_clips(
        make,
        section.world,
        clips=measures.clips,
        num_frames=section.num_frames,
        size=section.size,
    )
    _save_clips(pipe, clips[:SHOWN], samples)
    return results


def _save_clips(pipe: VideoDiffusionPipeline, clips: torch.Tensor, file: Path) -> None:
    """Eight moments of each clip in a row of its own."""
    moments = torch.linspace(0, clips.shape[2] - 1, min(8, clips.shape[2])).round().long()
    rows: Any = pipe.decode(clips[:, :, moments], "pil")
    save_png(
        make_grid([one for row in rows for one in row], columns=len(moments)), file, force=True
    )
