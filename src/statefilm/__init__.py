"""Image and video generation with state-space diffusion models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statefilm.models import HTHTransformer, TemporalSSMUNet
    from statefilm.models.video_vae import AutoencoderKLVideo
    from statefilm.pipelines import HTHPipeline, VideoDiffusionPipeline, load_pipeline

__version__ = "0.1.0"
__all__ = [
    "AutoencoderKLVideo",
    "HTHPipeline",
    "HTHTransformer",
    "TemporalSSMUNet",
    "VideoDiffusionPipeline",
    "__version__",
    "load_pipeline",
]

# Resolved at first use: `import statefilm` stays free of torch.
_HOMES = {
    "AutoencoderKLVideo": "statefilm.models.video_vae",
    "HTHPipeline": "statefilm.pipelines",
    "HTHTransformer": "statefilm.models",
    "TemporalSSMUNet": "statefilm.models",
    "VideoDiffusionPipeline": "statefilm.pipelines",
    "load_pipeline": "statefilm.pipelines",
    # diffusers asks a component's library for the class, and for the base that says how to load it.
    **dict.fromkeys(
        ("DDIM", "DPMSolver", "FlowAncestral", "UniPC"), "statefilm.pipelines.schedulers"
    ),
    **dict.fromkeys(("ModelMixin", "SchedulerMixin"), "diffusers"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
