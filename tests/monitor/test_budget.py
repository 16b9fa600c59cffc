import pytest
import torch

from cases_monitor import Clock, clock
from ravine.errors import UserError
from ravine.monitor.budget import Budget

__all__ = ["clock"]


def looks(budget: Budget, clock: Clock, count: int, step: float, look: float) -> None:
    for _ in range(count):
        clock.now += step
        budget.enter()
        clock.now += look
        budget.looked(step, budget.leave())


def test_two_clocks(clock: Clock) -> None:
    budget = Budget(0.05, torch.device("cpu"))
    looks(budget, clock, 10, 0.1, 0.01)
    assert budget.training == pytest.approx(1.0) and budget.spent == pytest.approx(0.1)
    assert budget.overhead == pytest.approx(0.1)


def test_dear_signals_wait_until_they_are_paid_for(clock: Clock) -> None:
    budget = Budget(0.05, torch.device("cpu"))
    looks(budget, clock, 100, 0.01, 0.0)
    assert budget.allows(0.034) and not budget.allows(0.036)
    budget.enter()
    clock.now += 0.01
    assert budget.leave() == pytest.approx(0.01)
    assert budget.allows(0.024) and not budget.allows(0.026)


@pytest.mark.parametrize(
    ("step", "look", "rest"),
    [(0.01, 0.0001, 0), (0.01, 0.00025, 0), (0.001, 0.0001, 192), (0.0001, 0.0001, 2496)],
)
def test_rest_brings_the_cheap_signals_to_half_of_the_budget(clock: Clock, step: float, look: float, rest: int) -> None:
    budget = Budget(0.05, torch.device("cpu"))
    looks(budget, clock, 64, step, look)
    assert budget.rest(64) == pytest.approx(rest, abs=1)
    assert 64 * look / ((64 + rest) * step) <= 0.5 * 0.05 * 1.01


def test_a_burst_is_judged_by_its_own_steps(clock: Clock) -> None:
    budget = Budget(0.05, torch.device("cpu"))
    looks(budget, clock, 64, 0.0001, 0.001)
    assert budget.rest(64) > 0
    looks(budget, clock, 64, 1.0, 0.001)
    assert budget.rest(64) == 0


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_budget_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match="share of the training time"):
        Budget(share, torch.device("cpu"))
