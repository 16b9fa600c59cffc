"""The ravine, sparse features and single steps against closed forms; every claim at a size of seconds."""

import math
from pathlib import Path

import pytest
import torch

from ravine import rules
from ravine.claims import reproduce
from ravine.claims.efimov import adagrad, defaults, ravine, steps
from ravine.claims.efimov.adagrad import DECAYING, Sparse
from ravine.claims.nets import Field


def test_paths_of_gradient_descent_are_powers() -> None:
    rates = torch.tensor([0.005, 0.019], dtype=torch.float64)
    seen = ravine.path("gradient descent", rates, 30)
    powers = torch.arange(31, dtype=torch.float64).view(-1, 1, 1)
    factor = 1 - rates.view(-1, 1) * torch.tensor(ravine.CURVATURES, dtype=torch.float64)
    torch.testing.assert_close(seen, factor**powers * torch.tensor(ravine.START, dtype=torch.float64))


def test_turning_the_ravine_changes_nothing_for_linear_methods() -> None:
    rates = torch.tensor([0.01], dtype=torch.float64)
    for method, same in (("gradient descent", True), ("momentum", True), ("AdaGrad", False), ("Adam", False)):
        gap = ravine.path(method, rates, 20, angle=math.pi / 4) - ravine.path(method, rates, 20)
        assert (float(gap.abs().max()) < 1e-10) == same, method


def test_iterations_are_those_after_which_it_stays() -> None:
    """Of gradient descent on the flat axis alone: x_k^2 <= TARGET x_0^2 from k = log(TARGET) / (2 log(1 - lr)) on."""
    (way,) = ravine.ways("gradient descent", [0.015])
    seen = ravine.path("gradient descent", torch.tensor([0.015], dtype=torch.float64), 3_000)[:, 0]
    loss = 0.5 * seen[:, 0] ** 2 + 50 * seen[:, 1] ** 2
    k = int(way.iterations)
    assert bool((loss[k:] <= ravine.TARGET * loss[0]).all())
    assert loss[k - 1] > ravine.TARGET * loss[0]
    assert way.turns == k  # (1 - 100 lr) < 0: at every step
    assert ravine.ways("gradient descent", [0.03])[0].iterations == math.inf


def test_examples_are_drawn_as_told() -> None:
    given = adagrad.examples([1, 2], 20, 4_000, even=False)
    often = given.x.mean(1)
    torch.testing.assert_close(often, adagrad.frequencies(20, even=False).expand(2, -1), atol=0.03, rtol=0)
    assert float(adagrad.frequencies(20, even=True).sum()) == pytest.approx(float(adagrad.frequencies(20, False).sum()))
    again = adagrad.examples([2], 20, 4_000, even=False)
    assert torch.equal(given.x[1], again.x[0])


def test_the_first_step_of_a_pass() -> None:
    """From 0 the gradient is the mean of (1/2 - y) x, and AdaGrad's sum its square."""
    given = adagrad.examples([1], 5, 2 * adagrad.BATCH, even=True)
    slope = ((0.5 - given.y[0, : adagrad.BATCH, None]) * given.x[0, : adagrad.BATCH]).mean(0)
    losses, sums = adagrad.one_pass("AdaGrad", given)
    torch.testing.assert_close(sums[0, 0], slope**2)
    plain, weights = adagrad.one_pass("gradient descent", given)
    torch.testing.assert_close(weights[:, 0], -torch.tensor(adagrad.RATES).double()[:, None] * slope)
    torch.testing.assert_close(plain, adagrad.one_pass("gradient descent" + DECAYING, given)[0])  # sqrt(1) is 1
    assert losses.shape == (len(adagrad.RATES), 1)


def test_lengths_can_be_wrong() -> None:
    """With another beta the formula of RMSProp is missed: the criterion can fail."""
    constant = torch.ones(5, dtype=torch.float64)
    t = torch.arange(1, 6, dtype=torch.float64)
    found = -steps.moves(rules.get("rmsprop"), constant, {"alpha": 0.8}) / steps.LR
    torch.testing.assert_close(found, (1 - 0.8**t).rsqrt())
    assert float((found - (1 - 0.9**t).rsqrt()).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["efimov-ravine", "efimov-adagrad", "efimov-steps", "efimov-defaults"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ravine, "STEPS", 400)
    monkeypatch.setattr(ravine, "RATES", ravine.RATES[::10])
    monkeypatch.setattr(adagrad, "SPARSE", {"quick": Sparse(20, 40, 2)})
    monkeypatch.setattr(defaults, "DIGITS", {"quick": Field("digits", 32, 3, 2, 1)})
    monkeypatch.setattr(steps, "REPLICATES", {"quick": 400})
    (result,) = reproduce([name], out=tmp_path)
    assert result["findings"] and result["figures"] and result["tables"]
    if name == "efimov-steps":
        assert result["outcome"] == "reproduced"
    if name in ("efimov-adagrad", "efimov-defaults"):
        assert all(finding["interval"] is not None for finding in result["findings"])
