"""How well a run did: its score at the checkpoint that is best on validation, and whether it learned at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ravine.errors import UserError, WorkError
from ravine.study.search.requests import Result
from ravine.study.search.settings import Settings
from ravine.study.space import Floats

DIVERGED_AT = 3.0  # times the loss at initialization: what a diverged run scores where the endpoint is a loss
SMALLEST_LOSS = float(np.finfo(np.float32).tiny)  # a loss of zero has no logarithm


@dataclass(frozen=True)
class Outcome:
    """A run within a horizon: score and step of its best checkpoint, least validation loss, whether it diverged."""

    score: float
    loss: float
    step: int
    diverged: bool


def worst_score(settings: Settings, initial_loss: float) -> float:
    """The score of a diverged run: the metric's worst value, or -log(3 x the loss at initialization).

    Raises UserError if a loss starts at or below zero, WorkError if it is not finite.
    """
    if settings.endpoint != "loss":
        assert settings.worst is not None  # Settings checks it
        return settings.worst if settings.higher_is_better else -settings.worst
    if not math.isfinite(initial_loss):
        raise WorkError("The loss at initialization is not finite: check the data and the initialization of the model.")
    if initial_loss <= 0:
        raise UserError(not_positive(initial_loss))
    return -math.log(DIVERGED_AT * initial_loss)


def not_positive(loss: float) -> str:
    """The sentence about a loss that has no logarithm."""
    return f"The loss takes the value {loss:g}, and ratios need a positive one: declare a metric as the endpoint."


def oriented(values: Floats, settings: Settings, worst: float) -> Floats:
    """Endpoint values as scores, larger is better: a metric in its unit, a loss as -log(loss); never below `worst`.

    What is not finite scores `worst`; a loss of zero counts as 1.2e-38. Raises UserError if a loss is negative.
    """
    finite = np.isfinite(values)
    if settings.endpoint == "loss":
        if (values[finite] < 0).any():
            raise UserError(not_positive(float(values[finite].min())))
        scores = -np.log(np.clip(np.where(finite, values, 1.0), SMALLEST_LOSS, None))
    else:
        scores = np.where(finite, values, 0.0) * (1 if settings.higher_is_better else -1)
    oriented_values: Floats = np.where(finite, np.maximum(scores, worst), worst)
    return oriented_values


def outcome(result: Result, settings: Settings, steps: int, test: bool = False) -> Outcome:
    """A run within `steps` steps at its checkpoint that is best on validation, the first of equals.

    The score is the validation score there, or with `test` the test score there. A run that diverged within the horizon
    scores the worst value. Raises WorkError if the test data were asked for and not evaluated.
    """
    worst = worst_score(settings, result.initial_loss)
    seen = int(np.searchsorted(result.steps, steps, side="right"))
    diverged = result.diverged_at is not None and result.diverged_at <= steps
    if diverged or seen == 0:
        return Outcome(worst, math.inf, steps, diverged)
    scores = oriented(result.validation[settings.endpoint][:seen], settings, worst)
    at = int(np.argmax(scores))
    score = float(scores[at])
    if test:
        if result.test is None:
            raise WorkError("A run of the evaluation was stored without its test values: run the study again.")
        score = float(oriented(result.test[settings.endpoint][at : at + 1], settings, worst)[0])
    losses = result.validation["loss"][:seen]
    loss = float(np.min(np.where(np.isfinite(losses), losses, math.inf)))
    return Outcome(score, loss, result.steps[at], diverged)


def learns(results: Sequence[Result]) -> bool:
    """Whether all runs of a configuration learn: none diverged, and each one lowered its training loss.

    A run whose units died at a large step ends a little below its initial loss; so each must lower its loss by at least
    half the share that the best of them does.
    """
    if any(result.diverged_at is not None for result in results):
        return False
    gains = [
        (r.initial_loss - r.final_train_loss) / max(abs(r.initial_loss), SMALLEST_LOSS)
        if math.isfinite(r.final_train_loss)
        else -math.inf
        for r in results
    ]
    return min(gains) > 0 and min(gains) >= max(gains) / 2
