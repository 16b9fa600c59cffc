"""The dial of the momentum-like variant: one step of conjugate gradients is gradient descent, or NAG."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases_hessian_free import data, dense, half_square, quadratic, weights
from ravine.hessian_free import MomentumHessianFree

PLAIN: dict[str, Any] = {"cg_steps": 1, "damping": 0.0, "damping_factor": 1.0, "preconditioner_power": 0.0}


def curved() -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    model, x, y, minimizer = quadratic(torch.linspace(0.5, 20, 10, dtype=torch.float64))
    return model, x, y, minimizer, x.T @ x / len(x)


def test_one_step_without_momentum_is_steepest_descent() -> None:
    model, x, y, minimizer, h = curved()
    optimizer = MomentumHessianFree(model, half_square, momentum=0.0, **PLAIN)
    w = torch.zeros(10, dtype=torch.float64)
    for _ in range(20):
        g = h @ (w - minimizer)
        w = w - (g @ g) / (g @ h @ g) * g
        optimizer.step(x, y)
        torch.testing.assert_close(model.w.detach(), w, rtol=1e-9, atol=1e-11)


def test_one_step_with_momentum_is_nag_with_a_rate_from_the_curvature() -> None:
    """v <- mu v - eps grad f(w + mu v), w <- w + v with eps = r'r / r'Hr, r the gradient at the look-ahead point."""
    model, x, y, minimizer, h = curved()
    momentum = [0.5, 0.7, 0.9, 0.9, 0.95] * 4
    optimizer = MomentumHessianFree(model, half_square, momentum=lambda step: momentum[step], **PLAIN)
    w, v = torch.zeros(10, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    for mu in momentum:
        ahead = h @ (w + mu * v - minimizer)
        v = mu * v - (ahead @ ahead) / (ahead @ h @ ahead) * ahead
        w = w + v
        optimizer.step(x, y)
        torch.testing.assert_close(model.w.detach(), w, rtol=1e-9, atol=1e-11)


def test_as_many_steps_as_dimensions_are_newtons() -> None:
    model, x, y, minimizer, _ = curved()
    MomentumHessianFree(model, half_square, **{**PLAIN, "cg_steps": 10}).step(x, y)
    torch.testing.assert_close(model.w.detach(), minimizer, rtol=1e-8, atol=1e-10)


def test_the_step_size_scales_the_step_and_not_the_start() -> None:
    model, x, y, _, _ = curved()
    half = MomentumHessianFree(model, half_square, lr=0.5, **PLAIN)
    half.step(x, y)
    direction = half.state[model.w]["direction"]
    torch.testing.assert_close(model.w.detach(), 0.5 * direction)


def test_more_steps_see_more_of_the_curvature() -> None:
    losses = []
    for steps in (1, 5, 25):
        model = dense()
        optimizer = MomentumHessianFree(model, F.cross_entropy, cg_steps=steps, momentum=0.5, damping=0.01)
        losses.append([optimizer.step(*data()) for _ in range(8)][-1].loss)
    assert losses[0] > losses[1] > losses[2]


def test_a_fixed_damping_saves_the_loss_after_the_step() -> None:
    model = dense()
    fixed = MomentumHessianFree(model, F.cross_entropy, damping_factor=1.0, damping=0.3).step(*data())
    assert (fixed.new_loss, fixed.ratio, fixed.next_damping) == (None, None, 0.3)
    other = MomentumHessianFree(dense(), F.cross_entropy, damping=0.3).step(*data())
    assert other.new_loss is not None and other.ratio is not None
    assert other.cost == pytest.approx(fixed.cost + 1 / 3)


def test_a_step_to_nowhere_is_not_taken() -> None:
    model = dense()
    optimizer = MomentumHessianFree(
        model, lambda z, y: F.cross_entropy(z, y) + 0 * (1e9 * z.square().sum(1).mean() - 1e9 * 3).exp(), lr=1e8
    )
    before = weights(model)
    result = optimizer.step(*data())
    assert (result.rate, result.new_loss) == (0.0, None)
    assert torch.equal(before, weights(model))
    assert result.next_damping > result.damping
    assert all(float(optimizer.state[p]["direction"].norm()) == 0.0 for p in model.parameters())
