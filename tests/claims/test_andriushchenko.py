"""Diagonal linear nets: their gradient, courses of the learning rate, and the claim at a size of seconds."""

from pathlib import Path

import pytest
import torch

from ravine.claims import andriushchenko, reproduce
from ravine.claims.andriushchenko import Arm, Scale
from ravine.claims.rows import minibatches

SMALL = Scale(10, 12, 2, 200, 2)


def test_the_gradient_is_autograds() -> None:
    rows = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    loss = ((x * rows[:, :4] * rows[:, 4:]).sum(1) - y).square().sum() / 2
    (expected,) = torch.autograd.grad(loss, rows)
    torch.testing.assert_close(andriushchenko.slopes(rows.detach(), x, y), expected)


def test_data_are_noiseless_and_sparse() -> None:
    data = andriushchenko.draw(SMALL, [0, 1])
    assert bool((data.truth[:, :2] > 0).all()) and not bool(data.truth[:, 2:].any())
    torch.testing.assert_close(data.truth.norm(dim=1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(torch.einsum("snd,sd->sn", data.x, data.truth), data.y)


def test_courses() -> None:
    arm = Arm("30 %", 0.9, 0.3)
    assert [arm.factor(step, 100) for step in (0, 29, 30, 99)] == [0.9, 0.9, 0.9 / 3.4, 0.9 / 3.4]
    assert Arm("constant", 0.9).factor(99, 100) == 0.9


def test_training() -> None:
    """Small steps lower the loss, far too large ones diverge, and neither depends on the arms beside it."""
    data, order = andriushchenko.draw(SMALL, [0, 1]), minibatches(10, 1, 200, [0, 1]).squeeze(2)
    arms = [Arm("small", 0.1), Arm("huge", 20.0)]
    edges = torch.ones(2, dtype=torch.float64)
    both = andriushchenko.train(data, order, arms, edges)
    assert bool((both.loss[-1, 0] < 0.3).all())
    assert bool((both.loss[-1, 1] == andriushchenko.DIVERGED).all())
    alone = andriushchenko.train(data, order, arms[:1], edges)
    torch.testing.assert_close(alone.loss[:, 0], both.loss[:, 0])
    assert both.nonzero[0].tolist() == [12, 12]


def test_the_edge_lies_between_rates_that_diverge_and_that_do_not() -> None:
    data = andriushchenko.draw(SMALL, [3])
    order = andriushchenko.order_of(SMALL, 300, [3])
    first, last = andriushchenko.edges_of(data, order, andriushchenko.EDGES)
    assert float(last) < float(first)
    below = andriushchenko.train(data, order, [Arm("", 1.0)], last)
    assert bool((below.loss < andriushchenko.DIVERGED).all())


@pytest.mark.parametrize("name", ["andriushchenko-sparse", "andriushchenko-edge"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(andriushchenko, "SCALES", {"quick": SMALL})
    (result,) = reproduce([name], out=tmp_path)
    assert len(result["findings"]) == 8
    assert all(finding["interval"] is not None for finding in result["findings"])
