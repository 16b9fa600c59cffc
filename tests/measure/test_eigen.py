import pytest
import torch

from cases_measure import dense_hessian, objective, operator, symmetric
from ravine import measure
from ravine.errors import UserError

SPREAD = torch.cat([torch.tensor([-40.0, 9.0, 8.5, 5.0]), torch.linspace(-1, 1, 76)])


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("basis", [8, 20, 80])
def test_the_largest_eigenvalues_and_vectors_are_the_dense_ones(count: int, basis: int) -> None:
    matrix = symmetric(SPREAD)
    found = measure.top_eigenvalues(operator(matrix), count, tolerance=1e-9, basis=basis, max_products=2000)
    truth, vectors = torch.linalg.eigh(matrix)
    assert found.converged
    torch.testing.assert_close(found.values, truth.flip(0)[:count], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        (found.vectors @ vectors.T.flip(0)[:count].T).abs(), torch.eye(count).double(), atol=1e-4, rtol=0
    )
    image = found.vectors @ matrix - found.values[:, None] * found.vectors
    assert (image.norm(dim=1) <= found.residuals * 1.01 + 1e-10).all()


def test_the_largest_in_value_is_found_where_a_negative_one_is_larger_in_magnitude() -> None:
    found = measure.top_eigenvalues(operator(symmetric((-100.0, 2.0, 1.0, 0.5))), tolerance=1e-8)
    assert found.values[0].item() == pytest.approx(2.0, rel=1e-8)


def test_residuals_bound_the_error_also_without_convergence() -> None:
    found = measure.top_eigenvalues(operator(symmetric(torch.linspace(0, 1, 200))), max_products=6)
    assert (found.converged, found.products) == (False, 6)
    nearest = (torch.linspace(0, 1, 200).double() - found.values).abs().min()
    assert nearest <= found.residuals[0]


def test_a_warm_start_saves_products_and_cannot_blind() -> None:
    matrix = symmetric(torch.linspace(0, 1, 300) ** 3 * 50)
    cold = measure.top_eigenvalues(operator(matrix))
    near = matrix + 0.01 * symmetric(torch.linspace(-1, 1, 300), seed=1)
    warm = measure.top_eigenvalues(operator(near), start=cold.vectors)
    again = measure.top_eigenvalues(operator(near))
    assert warm.products < again.products
    assert warm.values[0].item() == pytest.approx(again.values[0].item(), rel=1e-3)
    old = torch.zeros(300, dtype=torch.float64)
    old[1] = 1.0  # an exact eigenvector of the next matrix, and not its largest
    other = torch.diag(torch.tensor([5.0, 2.0] + [1.0] * 298, dtype=torch.float64))
    assert measure.top_eigenvalues(operator(other), start=old[None]).values[0].item() == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_and_singular_matrices(size: int) -> None:
    found = measure.top_eigenvalues(operator(torch.zeros(size, size, dtype=torch.float64)), size)
    torch.testing.assert_close(found.values, torch.zeros(size, dtype=torch.float64))
    truth = torch.arange(size).double()
    found = measure.top_eigenvalues(operator(torch.diag(truth)), size)
    torch.testing.assert_close(found.values, truth.flip(0), rtol=1e-9, atol=1e-12)


def test_sharpness_of_a_net_is_that_of_its_dense_hessian_in_both_precisions() -> None:
    truth = torch.linalg.eigvalsh(dense_hessian())[-2:].flip(0)
    found = measure.top_eigenvalues(measure.hessian(objective(micro_batch=11)), 2, tolerance=1e-8)
    torch.testing.assert_close(found.values, truth, rtol=1e-8, atol=0)
    gauss_newton = measure.top_eigenvalues(measure.gauss_newton(objective()), tolerance=1e-8)
    assert gauss_newton.values[0] > 0
    single = objective()
    model = single.model.float()
    x, y = single.parts[0].batch
    half = measure.Objective(model, [(x.float(), y)], loss=torch.nn.functional.cross_entropy)
    torch.testing.assert_close(measure.top_eigenvalues(measure.hessian(half), 2).values, truth, rtol=1e-3, atol=0)


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(UserError, match="size 2 has no 3 eigenvalues"):
        measure.top_eigenvalues(operator(torch.eye(2, dtype=torch.float64)), 3)
    with pytest.raises(UserError, match="start= is zero or not finite"):
        measure.top_eigenvalues(operator(torch.eye(2)), start=torch.zeros(2))
    with pytest.raises(UserError, match="of type Objective: give hessian"):
        measure.top_eigenvalues(objective())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an Objective is wanted, and this is of type Sequential"):
        measure.hessian(objective().model)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not finite"):
        measure.top_eigenvalues(operator(torch.full((4, 4), torch.nan)))
