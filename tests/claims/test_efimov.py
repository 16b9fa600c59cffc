"""The ravine, sparse features and single steps against closed forms; every claim at a size of seconds."""

import math
from pathlib import Path

import pytest
import torch

from ravine import rules
from ravine.claims import efimov, reproduce
from ravine.claims.efimov import DECAYING, Digits, Sparse


def test_paths_of_gradient_descent_are_powers() -> None:
    rates = torch.tensor([0.005, 0.019], dtype=torch.float64)
    seen = efimov.path("gradient descent", rates, 30)
    powers = torch.arange(31, dtype=torch.float64).view(-1, 1, 1)
    factor = 1 - rates.view(-1, 1) * torch.tensor(efimov.CURVATURES, dtype=torch.float64)
    torch.testing.assert_close(seen, factor**powers * torch.tensor(efimov.START, dtype=torch.float64))


def test_turning_the_ravine_changes_nothing_for_linear_methods() -> None:
    rates = torch.tensor([0.01], dtype=torch.float64)
    for method, same in (("gradient descent", True), ("momentum", True), ("AdaGrad", False), ("Adam", False)):
        gap = efimov.path(method, rates, 20, angle=math.pi / 4) - efimov.path(method, rates, 20)
        assert (float(gap.abs().max()) < 1e-10) == same, method


def test_iterations_are_those_after_which_it_stays() -> None:
    """Of gradient descent on the flat axis alone: x_k^2 <= TARGET x_0^2 from k = log(TARGET) / (2 log(1 - lr)) on."""
    (way,) = efimov.ways("gradient descent", [0.015])
    seen = efimov.path("gradient descent", torch.tensor([0.015], dtype=torch.float64), 3_000)[:, 0]
    loss = 0.5 * seen[:, 0] ** 2 + 50 * seen[:, 1] ** 2
    k = int(way.iterations)
    assert bool((loss[k:] <= efimov.TARGET * loss[0]).all())
    assert loss[k - 1] > efimov.TARGET * loss[0]
    assert way.turns == k  # (1 - 100 lr) < 0: at every step
    assert efimov.ways("gradient descent", [0.03])[0].iterations == math.inf


def test_examples_are_drawn_as_told() -> None:
    given = efimov.examples([1, 2], 20, 4_000, even=False)
    often = given.x.mean(1)
    torch.testing.assert_close(often, efimov.frequencies(20, even=False).expand(2, -1), atol=0.03, rtol=0)
    assert float(efimov.frequencies(20, even=True).sum()) == pytest.approx(float(efimov.frequencies(20, False).sum()))
    again = efimov.examples([2], 20, 4_000, even=False)
    assert torch.equal(given.x[1], again.x[0])


def test_the_first_step_of_a_pass() -> None:
    """From 0 the gradient is the mean of (1/2 - y) x, and AdaGrad's sum its square."""
    given = efimov.examples([1], 5, 2 * efimov.BATCH, even=True)
    slope = ((0.5 - given.y[0, : efimov.BATCH, None]) * given.x[0, : efimov.BATCH]).mean(0)
    losses, sums = efimov.one_pass("AdaGrad", given)
    torch.testing.assert_close(sums[0, 0], slope**2)
    plain, weights = efimov.one_pass("gradient descent", given)
    torch.testing.assert_close(weights[:, 0], -torch.tensor(efimov.SPARSE_RATES).double()[:, None] * slope)
    torch.testing.assert_close(plain, efimov.one_pass("gradient descent" + DECAYING, given)[0])  # sqrt(1) is 1
    assert losses.shape == (len(efimov.SPARSE_RATES), 1)


def test_lengths_can_be_wrong() -> None:
    """With another beta the formula of RMSProp is missed: the criterion can fail."""
    constant = torch.ones(5, dtype=torch.float64)
    t = torch.arange(1, 6, dtype=torch.float64)
    found = -efimov.moves(rules.get("rmsprop"), constant, {"alpha": 0.8}) / efimov.LR
    torch.testing.assert_close(found, (1 - 0.8**t).rsqrt())
    assert float((found - (1 - 0.9**t).rsqrt()).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["efimov-ravine", "efimov-adagrad", "efimov-steps", "efimov-defaults"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efimov, "STEPS", 400)
    monkeypatch.setattr(efimov, "RATES", efimov.RATES[::10])
    monkeypatch.setattr(efimov, "SPARSE", {"quick": Sparse(20, 40, 2)})
    monkeypatch.setattr(efimov, "DIGITS", {"quick": Digits(3, 2, 1)})
    monkeypatch.setattr(efimov, "REPLICATES", {"quick": 400})
    (result,) = reproduce([name], out=tmp_path)
    assert result["findings"] and result["figures"] and result["tables"]
    if name == "efimov-steps":
        assert result["outcome"] == "reproduced"
    if name in ("efimov-adagrad", "efimov-defaults"):
        assert all(finding["interval"] is not None for finding in result["findings"])
