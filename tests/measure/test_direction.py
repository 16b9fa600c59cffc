import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from cases_measure import assert_unbiased, data, dense, dense_hessian, objective
from ravine import measure
from ravine.errors import UserError

WEIGHT = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
ALONG = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
BATCHES = 7


def table() -> list[tuple[Tensor, Tensor]]:
    """Seven batches of three rows: the whole population of mini-batches."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCHES, 3, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(BATCHES, 3, 1, generator=generator, dtype=torch.float64)
    return list(zip(x, y, strict=True))


def drawn(seed: int, count: int = 5) -> measure.Objective:
    population = table()
    chosen = torch.randint(BATCHES, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return of([population[k] for k in chosen])


def of(batches: list[tuple[Tensor, Tensor]]) -> measure.Objective:
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(WEIGHT)
    return measure.Objective(model, batches, loss=mse_loss, check=False)


def matrices() -> list[tuple[Tensor, Tensor]]:
    """(Hessian, gradient) of each batch of the population, by hand."""
    return [(2 * x.T @ x / 3, 2 * x.T @ (x @ WEIGHT[0] - y[:, 0]) / 3) for x, y in table()]


def test_curvature_along_a_direction_is_that_of_the_dense_hessian() -> None:
    u = torch.randn(43, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = float(u @ dense_hessian() @ u / u.square().sum())
    for rows in (48, 11):
        found = measure.curvature_along(objective(micro_batch=rows), u)
        assert found.value == pytest.approx(truth, rel=1e-10)


def test_curvature_along_a_direction_is_unbiased_within_its_error() -> None:
    truth = sum(float(ALONG @ h @ ALONG) for h, _ in matrices()) / BATCHES / float(ALONG.square().sum())
    found = [measure.curvature_along(drawn(seed), ALONG) for seed in range(200)]
    assert_unbiased([one.value for one in found], [one.error for one in found], truth)


def test_batch_sharpness_is_unbiased_within_its_error() -> None:
    truth = sum(float(g @ h @ g / (g @ g)) for h, g in matrices()) / BATCHES
    found = [measure.batch_sharpness(drawn(seed), tolerance=0.0) for seed in range(200)]
    assert_unbiased([one.value for one in found], [one.error for one in found], truth)


def test_batch_sharpness_along_the_step_of_momentum() -> None:
    v = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    ratios = [float((s := 0.9 * v + g) @ h @ s / (s @ g)) for h, g in matrices()]
    found = measure.batch_sharpness(of(table()), velocity=v, momentum=0.9)
    assert found.value == pytest.approx(sum(ratios) / BATCHES)


def test_batch_sharpness_along_the_step_of_momentum_is_unbiased_within_its_error() -> None:
    v = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    truth = sum(float((s := 0.1 * v + g) @ h @ s / (s @ g)) for h, g in matrices()) / BATCHES
    found = [measure.batch_sharpness(drawn(seed), tolerance=0.0, velocity=v, momentum=0.1) for seed in range(200)]
    assert_unbiased([one.value for one in found], [one.error for one in found], truth)


def test_batch_sharpness_stops_on_its_standard_error() -> None:
    found = measure.batch_sharpness(drawn(0, 60), tolerance=0.5, at_least=4)
    assert 4 <= found.draws < 60
    assert found.error <= 0.5 * found.value
    assert measure.batch_sharpness(drawn(0, 60), tolerance=0.0).draws == 60


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(UserError, match=r"one number per parameter, \(43,\), not \(3,\)"):
        measure.curvature_along(objective(), ALONG)
    with pytest.raises(UserError, match="zero or not finite"):
        measure.curvature_along(of(table()), torch.zeros(3))
    with pytest.raises(UserError, match="the objective has one: give micro_batch="):
        measure.batch_sharpness(objective())
    x, y = data(12)
    bad = x.clone()
    bad[7, 0] = torch.nan
    broken = measure.Objective(dense(), [(bad, y)], loss=cross_entropy, micro_batch=4, check=False)
    with pytest.raises(UserError, match=r"gradient of '0\.weight' is not finite in mini-batch 1"):
        measure.batch_sharpness(broken)
    with pytest.raises(UserError, match="product with the curvature matrix is not finite"):
        measure.curvature_along(broken, torch.ones(43, dtype=torch.float64))
    with pytest.raises(UserError, match=r"at momentum 0\.9 needs the velocity before the step: give velocity="):
        measure.batch_sharpness(of(table()), momentum=0.9)
    still = of([(torch.eye(3, dtype=torch.float64), WEIGHT.T)] * 3)
    with pytest.raises(UserError, match="mini-batch 0 is zero along its step"):
        measure.batch_sharpness(still)
