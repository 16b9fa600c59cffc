"""From a forecast to the probability of a verdict: one number, two coefficients.

The number is x = the forecast difference between the best momentum and the best plain SGD, in the unit of the endpoint,
over the margin. What `compare` would find is then

    P(pays) = 1 / (1 + exp(-(intercept + slope log10 x)))

*Prior rule*, before anything is fitted: theory alone. Momentum pays where curvature limits the step within the budget
and not where noise does, which is what the noisy quadratic model weighs up; so it pays if x > 1, with intercept 0 and
slope 2 (a forecast wrong by a factor of 3 either way one time in four). The fit is a logistic regression with a
Gaussian prior of deviation 2 around these two numbers; `benchmarks/advice.py --fit` makes it, on some problems, and
scores it on others. What was fitted, and on what, stands in `coefficients.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from ravine.study.infer import Verdict

FILE = Path(__file__).with_name("coefficients.json")
LEAST, MOST = 1e-2, 1e4  # of x: beyond, a forecast says no more
PRIOR_DEVIATION = 2.0


@dataclass(frozen=True)
class Coefficients:
    """intercept, slope: of P(pays) in log10 x. hurts: the share of `hurts` among what does not pay."""

    intercept: float
    slope: float
    hurts: float


PRIOR = Coefficients(intercept=0.0, slope=2.0, hurts=0.05)


@cache
def committed() -> Coefficients:
    """The coefficients in use."""
    content = json.loads(FILE.read_text())
    return Coefficients(**content["coefficients"])


def fitted() -> bool:
    """Whether studies stand behind the coefficients in use, or theory alone."""
    return bool(json.loads(FILE.read_text())["cells"])


def feature(gain: float, margin: float) -> float:
    """log10 x of a forecast difference `gain` (positive is better for momentum) and a margin, within bounds."""
    ratio = gain / margin if margin > 0 else math.inf if gain > 0 else 0.0
    return math.log10(min(max(ratio, LEAST), MOST))


def probabilities(x: float, coefficients: Coefficients) -> dict[Verdict, float]:
    """verdict -> its probability, given that the study is large enough to reach one; they sum to 1."""
    pays = float(expit(coefficients.intercept + coefficients.slope * x))
    return {"pays": pays, "equal": (1 - pays) * (1 - coefficients.hurts), "hurts": (1 - pays) * coefficients.hurts}


def fit(features: Sequence[float], verdicts: Sequence[Verdict]) -> Coefficients:
    """The coefficients with the largest posterior density; cells that stayed undecided are left out."""
    pairs = [(x, v) for x, v in zip(features, verdicts, strict=True) if v != "undecided"]
    x = np.array([one for one, _ in pairs])
    sign = np.array([1.0 if v == "pays" else -1.0 for _, v in pairs])
    prior = np.array([PRIOR.intercept, PRIOR.slope])

    def cost(free: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        likelihood = log_expit(sign * (free[0] + free[1] * x)).sum()
        return float(((free - prior) ** 2).sum() / (2 * PRIOR_DEVIATION**2) - likelihood)

    intercept, slope = map(
        float, minimize(cost, prior, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    )
    others = [v for _, v in pairs if v != "pays"]
    hurts = (others.count("hurts") + 20 * PRIOR.hurts) / (len(others) + 20)  # the prior counts as 20 cells
    return Coefficients(round(intercept, 4), round(slope, 4), round(hurts, 4))


def write(coefficients: Coefficients, command: str, problems: Sequence[str], cells: int) -> None:
    """Keeps fitted coefficients, with what they come from."""
    content = {"coefficients": asdict(coefficients), "command": command, "problems": list(problems), "cells": cells}
    FILE.write_text(json.dumps(content, indent=2) + "\n")
    committed.cache_clear()
