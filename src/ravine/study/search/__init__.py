"""The search for the settings of one method, as a coroutine over runs: `tune` it, `drive` it, `judge` what it found."""

from ravine.study.search.drive import drive, together
from ravine.study.search.judging import curves, evaluate_request, full_request, judge, tables
from ravine.study.search.probing import probe
from ravine.study.search.requests import Configuration, Coroutine, Request, Result, Results, Run
from ravine.study.search.scoring import Outcome, learns, not_positive, oriented, outcome, worst_score
from ravine.study.search.settings import SCREENING_SEEDS, Settings
from ravine.study.search.trials import Trial
from ravine.study.search.tuning import Tuned, tune

__all__ = [
    "SCREENING_SEEDS",
    "Configuration",
    "Coroutine",
    "Outcome",
    "Request",
    "Result",
    "Results",
    "Run",
    "Settings",
    "Trial",
    "Tuned",
    "curves",
    "drive",
    "evaluate_request",
    "full_request",
    "judge",
    "learns",
    "not_positive",
    "oriented",
    "outcome",
    "probe",
    "tables",
    "together",
    "tune",
    "worst_score",
]
