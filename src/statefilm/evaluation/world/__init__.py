"""The checkable world, read back from pixels: which prompts are met, beside their floors."""

from statefilm.evaluation.world.gates import Gate, reader_gates
from statefilm.evaluation.world.generation import generator
from statefilm.evaluation.world.motion import ClipReading, read_clips
from statefilm.evaluation.world.page import write_page
from statefilm.evaluation.world.protocol import evaluate_t2i, evaluate_t2v, oracle
from statefilm.evaluation.world.reader import Found, Reading, read_images, read_png
from statefilm.evaluation.world.reconstruction import evaluate_vae
from statefilm.evaluation.world.results import Metric, Results
from statefilm.evaluation.world.statistics import wilson_interval
from statefilm.evaluation.world.verdicts import judge, judge_clip

__all__ = [
    "ClipReading",
    "Found",
    "Gate",
    "Metric",
    "Reading",
    "Results",
    "evaluate_t2i",
    "evaluate_t2v",
    "evaluate_vae",
    "generator",
    "judge",
    "judge_clip",
    "oracle",
    "read_clips",
    "read_images",
    "read_png",
    "reader_gates",
    "wilson_interval",
    "write_page",
]
