"""The studies of temporal layers: what they need by the number of frames, and what they can do."""

from statefilm.experiments.temporal.memory import MemoryResults, measure_memory
from statefilm.experiments.temporal.memory_page import write_memory_page
from statefilm.experiments.temporal.quality import quality_studies
from statefilm.experiments.temporal.quality_page import study_folder, write_quality_page
from statefilm.experiments.temporal.subjects import OneLayer, WholeUNet

__all__ = [
    "MemoryResults",
    "OneLayer",
    "WholeUNet",
    "measure_memory",
    "quality_studies",
    "study_folder",
    "write_memory_page",
    "write_quality_page",
]
