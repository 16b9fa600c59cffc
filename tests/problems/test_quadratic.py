import pytest
import torch

from ravine.errors import UserError
from ravine.problems import check, load, prepare, quadratic

COVARIANCE = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (0.3, 0.3 * torch.eye(3, dtype=torch.float64)),
        ((1.0, 0.0, 4.0), torch.diag(torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64))),
        (COVARIANCE, COVARIANCE),
        (torch.ones(3, 3), torch.ones(3, 3, dtype=torch.float64)),
    ],
)
def test_the_noise_rows_have_exactly_the_stated_mean_and_covariance(noise, expected) -> None:  # type: ignore[no-untyped-def]
    rows = quadratic((1.0, 2.0, 3.0), noise=noise).train
    assert rows.shape == (4096, 3)
    torch.testing.assert_close(rows.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(rows.T @ rows / len(rows), expected, rtol=0, atol=1e-13)


def test_the_noise_is_gaussian() -> None:
    rows = quadratic((1.0,) * 8, noise=1.0).train
    assert abs((rows**3).mean()) < 4 * (15 / rows.numel()) ** 0.5
    assert abs((rows**4).mean() - 3) < 4 * (96 / rows.numel()) ** 0.5


def test_loss_and_gradient_are_the_equations() -> None:
    h = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    start = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    problem = quadratic(h, noise=COVARIANCE, start=start)
    data, model = prepare(problem), problem.build()
    z = data.train.batch(torch.tensor([5, 5, 17]))
    loss = problem.loss_on(model, z)
    (gradient,) = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(loss.detach(), (h * start**2).sum() / 2 + z.mean(0) @ start, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, h * start + z.mean(0), rtol=1e-14, atol=0)


def test_evaluation_over_all_rows_is_free_of_noise() -> None:
    problem = quadratic((1.0, 100.0), noise=25.0)
    data, model = prepare(problem), problem.build()
    for split in (data.train, data.validation, data.test):
        assert problem.evaluate(model, split.tensors)["loss"].item() == pytest.approx(50.5, rel=1e-13)
    assert problem.sampling == "with-replacement"


def test_a_batch_drawn_with_replacement_has_the_covariance_over_its_size() -> None:
    rows = quadratic((1.0, 1.0, 1.0), noise=COVARIANCE).train
    index = torch.randint(len(rows), (40_000, 8), generator=torch.Generator().manual_seed(3))
    means = rows[index].mean(1)
    error = 4 * (2 * 2.0**2 / len(means)) ** 0.5 / 8  # four standard errors of the largest variance
    torch.testing.assert_close(means.T @ means / len(means), COVARIANCE / 8, rtol=0, atol=error)


def test_gradient_descent_follows_the_closed_form_on_the_ravine() -> None:
    problem = load("ravine")
    data, model = prepare(problem), problem.build()
    assert problem.batch_rows(data.train.rows) == data.train.rows == 1
    (x,) = model.parameters()
    for _ in range(20):
        (gradient,) = torch.autograd.grad(problem.loss_on(model, data.train.tensors), [x])
        with torch.no_grad():
            x.sub_(gradient, alpha=0.015)
    expected = torch.tensor([10 * (1 - 0.015 * 1) ** 20, (1 - 0.015 * 100) ** 20], dtype=torch.float64)
    torch.testing.assert_close(x.detach(), expected, rtol=1e-12, atol=0)


def test_the_registered_one_has_condition_number_100() -> None:
    problem = load("quadratic")
    curvature = dict(problem.build().named_buffers())["curvature"]
    assert len(curvature) == 10
    assert (curvature.max() / curvature.min()).item() == pytest.approx(100)
    check(problem, prepare(problem))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"spectrum": (1.0, -1.0)}, "each at least 0"),
        ({"spectrum": ()}, "spectrum= must be a list"),
        ({"spectrum": (1.0, float("inf"))}, "finite numbers"),
        ({"spectrum": (1.0, 2.0), "start": (1.0,)}, "start= has 1 entries and the spectrum has 2"),
        ({"spectrum": (1.0, 2.0), "noise": (1.0, 2.0, 3.0)}, "a number, 2 variances or a 2 x 2 matrix"),
        ({"spectrum": (1.0, 2.0), "noise": -1.0}, "positive semi-definite"),
        ({"spectrum": (1.0, 2.0), "noise": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, "symmetric"),
        ({"spectrum": torch.ones(4096)}, "dimension below 4096"),
        ({"batch_size": 0}, "batch_size="),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, sentence) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=sentence):
        quadratic(**arguments)
