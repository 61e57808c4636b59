"""Judging clips: FVD-rand128 between sets of them, and exact readings by their world's laws."""

from statefilm.evaluation.clips.evaluate import clip_generator, evaluate_clips, real_clips
from statefilm.evaluation.clips.fvd import Distance, frechet_distance, fvd_rand128
from statefilm.evaluation.clips.network import FEATURES, clip_features
from statefilm.evaluation.clips.readings import read_clips, shuffled_frames

__all__ = [
    "FEATURES",
    "Distance",
    "clip_features",
    "clip_generator",
    "evaluate_clips",
    "frechet_distance",
    "fvd_rand128",
    "read_clips",
    "real_clips",
    "shuffled_frames",
]
