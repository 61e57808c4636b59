"""Pipelines: text in, frames out, and files that tell where they came from."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statefilm.pipelines.base import LocalPipeline
    from statefilm.pipelines.hth import HTHPipeline, HTHPipelineOutput
    from statefilm.pipelines.loading import bundled_models, load_pipeline, resolve_model
    from statefilm.pipelines.sampling import SAMPLERS, seed_generators
    from statefilm.pipelines.video_diffusion import (
        VideoDiffusionPipeline,
        VideoDiffusionPipelineOutput,
        ddpm_scheduler,
    )

__all__ = [
    "SAMPLERS",
    "HTHPipeline",
    "HTHPipelineOutput",
    "LocalPipeline",
    "VideoDiffusionPipeline",
    "VideoDiffusionPipelineOutput",
    "bundled_models",
    "ddpm_scheduler",
    "load_pipeline",
    "resolve_model",
    "seed_generators",
]

# Resolved at first use: reading a file's provenance needs no torch.
_HOMES = {
    "HTHPipeline": "hth",
    "HTHPipelineOutput": "hth",
    "LocalPipeline": "base",
    "SAMPLERS": "sampling",
    "VideoDiffusionPipeline": "video_diffusion",
    "VideoDiffusionPipelineOutput": "video_diffusion",
    "bundled_models": "loading",
    "ddpm_scheduler": "video_diffusion",
    "load_pipeline": "loading",
    "resolve_model": "loading",
    "seed_generators": "sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
