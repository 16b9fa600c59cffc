"""The runs that are judged, on the evaluation seeds with test data, and their scores."""

from collections.abc import Iterable, Sequence

import numpy as np

from ravine.study.infer import CHANCES, Finalists
from ravine.study.search.requests import Configuration, Request, Results
from ravine.study.search.scoring import oriented, outcome, worst_score
from ravine.study.search.settings import Settings
from ravine.study.search.tuning import Tuned
from ravine.study.space import Floats


def evaluate_request(tuned: Tuned, settings: Settings) -> Request:
    """The runs on the evaluation seeds, test data included: finalists, other winners, defaults."""
    whole = [*tuned.finalists, tuned.fixed, tuned.defaults, *(winner for _, winner in tuned.secondary)]
    wanted = [(configuration, settings.steps) for configuration in whole]
    wanted += [(configuration, steps) for steps, best in tuned.horizons for configuration in best]
    runs = (run for configuration, steps in wanted for run in configuration.runs(settings.evaluation, steps, test=True))
    return Request("evaluate", tuple(dict.fromkeys(runs)))


def full_request(tuned: Tuned, settings: Settings) -> Request:
    """Every trial on every evaluation seed, with test data (`--full`)."""
    configurations = [trial.configuration for trial in tuned.trials]
    runs = (run for one in configurations for run in one.runs(settings.evaluation, settings.steps, test=True))
    return Request("full", tuple(dict.fromkeys(runs)))


def judge(
    configurations: Sequence[Configuration],
    settings: Settings,
    results: Results,
    steps: int | None = None,
    trials: int | None = None,
) -> Finalists:
    """The test scores of finalists, best first, on the evaluation seeds, at the checkpoints best on validation.

    trials: how many settings their search tried; None for a setting that was given. steps: their length, T if None.
    """
    steps = settings.steps if steps is None else steps
    runs = [configuration.runs(settings.evaluation, steps, test=True) for configuration in configurations]
    outcomes = [[outcome(results[run], settings, steps, test=True) for run in row] for row in runs]
    return Finalists(
        scores=np.array([[o.score for o in row] for row in outcomes]),
        weights=np.array(CHANCES[: len(configurations)]),
        diverged=np.array([[o.diverged for o in row] for row in outcomes]),
        trials=trials,
    )


def tables(tuned: Tuned, settings: Settings, results: Results) -> tuple[Floats, Floats]:
    """Validation and test scores of all trials on the evaluation seeds, each (trials, seeds), after `full_request`."""
    rows = [t.configuration.runs(settings.evaluation, settings.steps, test=True) for t in tuned.trials]
    kinds = (False, True)
    validation, test = (
        np.array([[outcome(results[run], settings, settings.steps, test=kind).score for run in row] for row in rows])
        for kind in kinds
    )
    return validation, test


def curves(
    configuration: Configuration, settings: Settings, results: Results, seeds: Iterable[int], test: bool
) -> Floats:
    """Validation scores at every evaluation, (seeds, evaluations); from a divergence on, the worst score."""
    runs = configuration.runs(seeds, settings.steps, test)
    found = []
    for run in runs:
        result = results[run]
        worst = worst_score(settings, result.initial_loss)
        scores = oriented(result.validation[settings.endpoint], settings, worst)
        found.append(scores if result.diverged_at is None else np.append(scores[:-1], worst))
    length = max(map(len, found))
    return np.array([np.append(scores, np.full(length - len(scores), scores[-1])) for scores in found])
