"""Side by side: which of two systems people prefer, judged blind on a local page."""

from statefilm.experiments.prefer.choices import CHOICES, Choice, ChoiceLog
from statefilm.experiments.prefer.pairs import Pair, find_pairs, shuffled
from statefilm.experiments.prefer.score import Preference, preference
from statefilm.experiments.prefer.server import make_server
from statefilm.experiments.prefer.session import Session

__all__ = [
    "CHOICES",
    "Choice",
    "ChoiceLog",
    "Pair",
    "Preference",
    "Session",
    "find_pairs",
    "make_server",
    "preference",
    "shuffled",
]
