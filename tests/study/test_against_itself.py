"""The whole chain, search and inference, on a method against itself: the small brother of benchmarks/calibration.py."""

from dataclasses import replace

import numpy as np
import pytest

from cases_search import SETTINGS, Engine, Surface
from ravine.study.infer import Contrast, Finalists, contrasts
from ravine.study.methods import get
from ravine.study.search import Request, drive, judge, tune

STUDIES = 40


def copy_of(method: str, study: int, copy: int, surface: Surface) -> Finalists:
    """One search with its own points and tuning seeds, scored on the evaluation seeds that all copies share."""
    own = replace(SETTINGS, trials=32, seeds=10, steps=100, study_seed=study, copy=copy, horizons=False)
    engine = Engine(surface)
    (tuned,) = drive([tune(get(method), own)], engine)
    runs = [run for c in tuned.finalists for run in c.runs(own.evaluation, own.steps, test=True)]
    return judge(tuned.finalists, own, engine([Request("evaluate", tuple(runs))]), trials=len(tuned.trials))


@pytest.fixture(scope="module", params=["sgd", "momentum"])
def found(request: pytest.FixtureRequest) -> list[Contrast]:
    surface = Surface(noise=0.01, best=1.0, cliff=0.3)  # the best learning rate lies where some seeds fail
    pairs = [[copy_of(request.param, study, copy, surface) for copy in (0, 1)] for study in range(STUDIES)]
    return [contrasts({"a": a, "b": b}, [("a", "b")], 0.0)[0] for a, b in pairs]


def test_copies_are_independent_searches(found: list[Contrast]) -> None:
    assert all(contrast.difference != 0 for contrast in found)


def test_a_method_neither_pays_nor_hurts_against_itself(found: list[Contrast]) -> None:
    false = sum(contrast.verdict != "undecided" for contrast in found)
    assert false <= 5  # more than 5 of 40 has chance 1.4 % at a rate of 5 %, and 80 % at a rate of 20 %


def test_the_seeds_alone_would_have_said_too_much(found: list[Contrast]) -> None:
    intervals = np.array([contrast.interval_given_settings for contrast in found])
    assert np.mean((intervals[:, 0] > 0) | (intervals[:, 1] < 0)) > 0.1
