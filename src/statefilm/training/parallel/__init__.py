"""Parallelism from outside: models and tasks know nothing of processes, devices or shards."""

from statefilm.training.parallel.ranks import Ranks

__all__ = ["Ranks"]
