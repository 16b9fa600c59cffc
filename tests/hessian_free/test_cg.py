"""Conjugate gradients: scipy's iterates, Martens' rules of stopping and saving."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from ravine.hessian_free.cg import Solution, conjugate_gradients, progress_window, spaced


def problem(size: int = 30, seed: int = 0, shift: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T / size + shift * torch.eye(size, dtype=torch.float64), torch.randn(
        size, generator=generator, dtype=torch.float64
    )


def solve(matrix: Tensor, b: Tensor, start: Tensor | None = None, **options: object) -> Solution:
    given: dict[str, object] = {"steps": 20, "save": lambda step: True, **options}
    return conjugate_gradients(lambda v: matrix @ v, b, start, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_iterates_are_those_of_scipy(warm: bool, preconditioned: bool) -> None:
    matrix, b = problem()
    start = 0.3 * b.flip(0) if warm else None
    diagonal = matrix.diagonal() ** 0.75 if preconditioned else None
    ours = solve(matrix, b, start, preconditioner=diagonal)
    theirs: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    inverse = LinearOperator(matrix.shape, matvec=lambda r: r / diagonal.numpy()) if diagonal is not None else None
    cg(
        matrix.numpy(),
        b.numpy(),
        x0=None if start is None else start.numpy(),
        rtol=0.0,
        maxiter=20,
        M=inverse,
        callback=lambda x: theirs.append(x.copy()),
    )
    assert [one.step for one in ours.iterates] == list(range(1, 21))
    for one, x in zip(ours.iterates, theirs, strict=True):
        torch.testing.assert_close(one.x, torch.from_numpy(x), rtol=1e-9, atol=1e-11)


def test_q_is_the_quadratic() -> None:
    matrix, b = problem()
    for one in solve(matrix, b, b).iterates:
        assert one.q == pytest.approx(float(0.5 * one.x @ matrix @ one.x - b @ one.x), rel=1e-9)


def test_the_residual_stops_it() -> None:
    matrix, b = problem(shift=1.0)
    found = solve(matrix, b, steps=200, tolerance=1e-6)
    assert found.stop == "residual"
    residuals = [float((b - matrix @ one.x).norm() / b.norm()) for one in found.iterates]
    assert residuals[-1] <= 1e-6 < residuals[-2]
    assert solve(matrix, b, found.last.x, tolerance=1e-5).last.step == 0


def test_progress_stops_it_by_the_rule() -> None:
    matrix, b = problem(400, shift=1e-3)
    free = solve(matrix, b, steps=150)
    values = [0.0, *(one.q for one in free.iterates)]

    def slow(i: int) -> bool:
        k = max(10, math.ceil(i / 10))
        return i > k and values[i - k] < 0 and (values[i] - values[i - k]) / values[i] < k * 0.01

    first = next(i for i in range(1, 151) if slow(i))
    found = solve(matrix, b, steps=150, progress=0.01)
    assert (found.stop, found.last.step) == ("progress", first)
    assert 11 < first < 150
    assert [progress_window(i) for i in (1, 100, 101, 250)] == [10, 10, 11, 25]


def test_negative_curvature_stops_it_before_it_is_used() -> None:
    matrix, b = torch.diag(torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)), torch.ones(3, dtype=torch.float64)
    found = solve(matrix, b)
    assert found.stop == "negative curvature"
    assert found.last.x.isfinite().all()
    nothing = solve(-torch.eye(3, dtype=torch.float64), b)
    assert (nothing.stop, nothing.last.step, float(nothing.last.x.norm())) == ("negative curvature", 0, 0.0)


def test_an_overflow_keeps_the_last_good_iterate() -> None:
    matrix, b = problem()
    calls = 0

    def product(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return matrix @ v * (math.nan if calls == 4 else 1.0)

    found = conjugate_gradients(product, b, steps=20)
    assert (found.stop, found.last.step) == ("not finite", 3)
    assert found.last.x.isfinite().all()


def test_iterates_are_saved_at_martens_spacing() -> None:
    wanted = sorted({math.ceil(5 * 1.3**j) for j in range(40)})
    assert [step for step in range(1, 10_000) if spaced(step)] == [step for step in wanted if step < 10_000]
    assert wanted[:8] == [5, 7, 9, 11, 15, 19, 25, 32]
    matrix, b = problem(400, shift=1e-3)
    assert [one.step for one in conjugate_gradients(lambda v: matrix @ v, b, steps=20).iterates] == [
        5,
        7,
        9,
        11,
        15,
        19,
        20,
    ]
