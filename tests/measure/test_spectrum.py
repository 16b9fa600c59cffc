import math

import pytest
import torch

from cases_measure import assert_unbiased, operator, symmetric
from ravine import measure
from ravine.errors import UserError

MATRIX = symmetric(torch.cat([torch.tensor([30.0, 12.0, -5.0]), torch.linspace(-1, 2, 37)]), seed=3)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_moments_of_the_density_are_unbiased(power: int) -> None:
    truth = float(torch.linalg.eigvalsh(MATRIX).pow(power).mean())
    found = [
        measure.spectral_density(operator(MATRIX), starts=24, nodes=6, seed=seed).moment(power) for seed in range(200)
    ]
    assert_unbiased([one.value for one in found], [one.error for one in found], truth)


def test_shares_and_the_density_are_unbiased_where_all_nodes_are_taken() -> None:
    values = torch.linalg.eigvalsh(MATRIX)
    found = [measure.spectral_density(operator(MATRIX), starts=24, nodes=40, seed=seed) for seed in range(200)]
    level = 1.04  # between two eigenvalues: which side of 1 the one at 1 lies on is a matter of rounding
    shares = [one.share_below(level) for one in found]
    truth = float((values < level).double().mean())
    assert_unbiased([one.value for one in shares], [one.error for one in shares], truth)
    heights = [one.at(torch.tensor([0.5]), width=0.5) for one in found]
    bell = float(torch.exp(-(((0.5 - values) / 0.5) ** 2) / 2).mean() / (0.5 * math.sqrt(2 * math.pi)))
    assert_unbiased([float(one) for one, _ in heights], [float(error) for _, error in heights], bell)


def test_the_density_is_that_of_the_eigenvalues() -> None:
    values = torch.linalg.eigvalsh(MATRIX)
    found = measure.spectral_density(operator(MATRIX), starts=400, nodes=40)
    torch.testing.assert_close(found.nodes[0], values, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(400, dtype=torch.float64))
    for level in (-2.0, 1.04, 20.0):
        share = found.share_below(level)
        assert abs(share.value - float((values < level).double().mean())) < 4 * share.error
    grid = torch.linspace(-8, 34, 400, dtype=torch.float64)
    curve, error = found.at(grid, width=0.5)
    truth = torch.exp(-(((grid[:, None] - values) / 0.5) ** 2) / 2).mean(1) / (0.5 * math.sqrt(2 * math.pi))
    assert ((curve - truth).abs() < 5 * error + 1e-12).all()
    assert float(curve.sum() * (grid[1] - grid[0])) == pytest.approx(1, abs=1e-3)


def test_a_density_with_fewer_eigenvalues_than_nodes() -> None:
    found = measure.spectral_density(operator(symmetric([2.0] * 5 + [7.0] * 5)), starts=6, nodes=8)
    shares = found.share_below(5.0)
    assert abs(shares.value - 0.5) < 4 * shares.error
    assert found.moment(1).value == pytest.approx(float(2 * found.share_below(5.0).value + 7 * (1 - shares.value)))


def test_the_density_of_a_vector_is_its_share_of_each_eigenvector() -> None:
    values, frame = torch.linalg.eigh(MATRIX)
    v = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = measure.spectral_density(operator(MATRIX), nodes=40, vectors=v)
    shares = (v @ frame).square() / v.square().sum(1, keepdim=True)
    torch.testing.assert_close(found.nodes[0], values, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.weights, shares, rtol=1e-6, atol=1e-9)


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(UserError, match="needs 2 starts"):
        measure.spectral_density(operator(MATRIX), starts=1)
    with pytest.raises(UserError, match="at least 1 node"):
        measure.spectral_density(operator(MATRIX), nodes=0)
    with pytest.raises(UserError, match="zero or not finite"):
        measure.spectral_density(operator(MATRIX), vectors=torch.zeros(1, 40, dtype=torch.float64))
    broken = operator(torch.full((4, 4), torch.nan, dtype=torch.float64))
    with pytest.raises(UserError, match="not finite"):
        measure.spectral_density(broken)
