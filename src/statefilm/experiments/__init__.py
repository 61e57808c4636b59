"""Studies of the systems' open questions: arms trained alike, measured, compared, reported."""

from statefilm.experiments.catalogue import STUDIES
from statefilm.experiments.comparison import Difference, compare
from statefilm.experiments.report import write_report
from statefilm.experiments.runner import Outcome, run_study
from statefilm.experiments.study import Measures, Stage, Study, shortened

__all__ = [
    "STUDIES",
    "Difference",
    "Measures",
    "Outcome",
    "Stage",
    "Study",
    "compare",
    "run_study",
    "shortened",
    "write_report",
]
