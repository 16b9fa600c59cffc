"""Backtracking, line search and the rule of Levenberg and Marquardt."""

import math

import pytest
import torch

from ravine.hessian_free.cg import Iterate
from ravine.hessian_free.search import backtrack, levenberg_marquardt, line_search

NAN = math.nan


@pytest.mark.parametrize(
    ("losses", "taken"),
    [
        ([3.0, 2.0, 1.0], 2),
        ([1.0, 2.0, 3.0], 0),
        ([0.0, 3.0, 1.0, 2.0], 2),  # it stops where walking back does not improve
        ([1.0, NAN, NAN], 0),
        ([1.0, 1.0, 1.0], 2),
        ([math.inf, 1.0, math.inf], 1),
    ],
)
def test_backtracking_walks_while_the_loss_improves(losses: list[float], taken: int) -> None:
    iterates = [Iterate(k + 1, torch.tensor([float(k)]), 0.0) for k in range(len(losses))]
    chosen, lowest = backtrack(iterates, lambda x: losses[int(x)])
    assert (chosen.step, lowest) == (taken + 1, losses[taken])


def test_the_line_search_takes_the_first_rate_under_the_line() -> None:
    tried: list[float] = []

    def loss_at(rate: float) -> float:
        tried.append(rate)
        return 10 * rate**2 - rate

    rate, loss = line_search(loss_at, 0.0, -1.0)
    right = next(0.8**j for j in range(60) if 10 * 0.8 ** (2 * j) - 0.8**j <= -0.01 * 0.8**j)
    assert rate == pytest.approx(right)
    assert loss == loss_at(rate)
    assert len(tried) == round(math.log(right, 0.8)) + 2
    looser = line_search(lambda r: -0.5 * r, 0.0, -1.0, armijo=0.6)
    assert looser == (0.0, 0.0)


def test_a_line_search_that_finds_nothing_stays() -> None:
    assert line_search(lambda rate: 2.0, 1.0, -1.0) == (0.0, 1.0)
    assert line_search(lambda rate: NAN, 1.0, -1.0) == (0.0, 1.0)
    assert line_search(lambda rate: 0.0, 1.0, 0.5) == (0.0, 1.0)  # uphill


@pytest.mark.parametrize(
    ("ratio", "factor"), [(0.2, 1.5), (-1.0, 1.5), (NAN, 1.5), (0.25, 1.0), (0.75, 1.0), (0.8, 2 / 3), (2.0, 2 / 3)]
)
def test_the_damping_follows_the_reduction_ratio(ratio: float, factor: float) -> None:
    assert levenberg_marquardt(6.0, ratio, 1.5) == pytest.approx(6.0 * factor)
