"""The measurement behind an advice: what is a floor, what a metric can still gain, and how many rows are looked at."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ravine.advice.forecast import Landscape, Spectrum, best
from ravine.advice.survey import LEAST_ROWS, ROWS, Point, _measured_rows, metric_slope, survey
from ravine.problems import Problem, prepare, quadratic

NOTHING = Landscape(1.0, 0.0, Spectrum(torch.ones(1), torch.ones(1)), Spectrum(torch.ones(1), torch.ones(1)), 1.0)


def at(loss: float, accuracy: float) -> Point:
    return Point(0, loss, {"loss": loss, "accuracy": accuracy}, None, 1.0, NOTHING)


def test_a_metric_moves_with_the_loss_as_it_did_until_it_saturates() -> None:
    run = [at(2.3, 0.1), at(1.3, 0.4), at(0.3, 0.9)]
    assert metric_slope(run, "accuracy", None) == pytest.approx(0.8 / 2)
    assert metric_slope(run, "accuracy", 1.0) == pytest.approx(0.1 / 0.3)  # an error of .1 is all there is to gain
    assert metric_slope(run, "accuracy", 0.0) == pytest.approx(0.8 / 2)
    assert metric_slope([at(2.3, 0.1), at(1.3, 0.1)], "accuracy", 1.0) == 0  # it does not move with the loss


def test_where_the_loss_did_not_move_a_metric_is_taken_in_proportion_to_it() -> None:
    for run in ([at(2.0, 0.1)], [at(2.0, 0.1), at(2.0, 0.1)]):
        assert metric_slope(run, "accuracy", 1.0) == pytest.approx(0.9 / 2)
        assert metric_slope(run, "accuracy", None) == pytest.approx(0.1 / 2)
    assert metric_slope([at(0.3, 0.9), at(math.nan, 0.9)], "accuracy", 1.0) == 0


def test_a_sample_of_the_rows_makes_no_floor_on_a_quadratic() -> None:
    """1,024 rows of 4,096 have another minimum; the whole loss is forecast as the exact model has it all the same."""
    problem = quadratic((1.0, 100.0), noise=(0.3, 30.0), start=(10.0, 1.0), batch_size=512, steps=500)
    last = survey(problem, prepare(problem), 60.0).points[-1]
    assert last.validation["loss"] - last.loss > 0.05  # which was once taken for a floor
    h = torch.tensor([1.0, 100.0], dtype=torch.float64)
    x = torch.tensor([10.0, 1.0], dtype=torch.float64) * (1 - 0.005 * h) ** last.step  # at half the edge of stability
    loss = float((h * x.square()).sum()) / 2
    noise = torch.tensor([0.3, 30.0], dtype=torch.float64) / 512
    exact = Landscape(loss, 0.0, Spectrum(h, (h * x).square()), Spectrum(h, noise), 100.0)
    left = problem.steps - last.step
    for momenta in ((0.0,), (0.9, 0.95, 0.98)):
        found, truth = best(last.landscape, left, momenta), best(exact, left, momenta)
        assert abs(math.log(found.loss / truth.loss)) < math.log(2), (momenta, found, truth)


def test_what_a_net_learns_by_heart_is_a_floor() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 30, generator=generator), torch.arange(24) % 2
    other = torch.randn(200, 30, generator=generator), torch.arange(200) % 2
    problem = Problem(
        name="by heart",
        model=lambda: nn.Linear(30, 2),
        loss=cross_entropy,
        train=(x, y),
        validation=other,
        batch_size=24,
        steps=500,
    )
    points = survey(problem, prepare(problem), 60.0).points
    gaps = [point.validation["loss"] - point.loss for point in points]
    assert points[0].landscape.floor == 0
    assert gaps[-1] > gaps[0] + 0.3
    assert points[-1].landscape.floor == pytest.approx(min(gaps[-1], gaps[-1] - gaps[0]), rel=1e-5)


def test_fewer_rows_are_measured_where_a_gradient_is_slow() -> None:
    x = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    problem = Problem(
        name="rows",
        model=lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)),
        loss=cross_entropy,
        train=(x, (x[:, 0] > 0).long()),
        batch_size=16,
        steps=60,
    )
    data, model = prepare(problem), problem.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert len(_measured_rows(problem, data, model, math.inf)[0]) == ROWS
    assert len(_measured_rows(problem, data, model, 1e-9)[0]) == LEAST_ROWS
    for name, value in model.state_dict().items():  # a look leaves the running statistics alone
        assert torch.equal(value, before[name])
