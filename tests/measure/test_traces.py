"""The trace against dense matrices in float64: XTrace, and Hutchinson's mean behind a fixed basis."""

import math

import pytest
import torch
from torch import Tensor

from cases_measure import assert_unbiased, dense_hessian, objective, operator, symmetric
from ravine import measure
from ravine.curvature import Operator
from ravine.errors import UserError
from ravine.measure.traces import _Sketch

MATRIX = symmetric(torch.cat([torch.tensor([30.0, 12.0, -5.0]), torch.linspace(-1, 2, 37)]), seed=3)
TRACE = float(MATRIX.trace())
SPECTRA = {
    "outliers and a bulk": MATRIX,
    "geometric": symmetric(0.8 ** torch.arange(80.0, dtype=torch.float64)),
    "algebraic": symmetric(1 / (1 + torch.arange(80.0, dtype=torch.float64)) ** 2),
    "flat": symmetric(torch.linspace(-1, 2, 80, dtype=torch.float64)),
}
RANK_5 = symmetric(torch.cat([torch.arange(1.0, 6.0), torch.zeros(95)]))


@pytest.mark.parametrize("matrix", SPECTRA.values(), ids=SPECTRA)
def test_xtrace_is_unbiased_within_its_error(matrix: Tensor) -> None:
    truth = float(matrix.trace())
    found = [measure.trace(operator(matrix), probes=12, at_least=12, sketch=12, seed=seed) for seed in range(200)]
    assert_unbiased([one.value for one in found], [one.error for one in found], truth)
    held = [low <= truth <= high for low, high in (one.interval() for one in found)]
    assert sum(held) / len(held) > 0.89  # of 95 %


@pytest.mark.parametrize("sketch", [0, 4])
def test_hutchinsons_trace_is_unbiased_within_its_error(sketch: int) -> None:
    found = [measure.trace(operator(MATRIX), probes=24, at_least=24, sketch=sketch, seed=seed) for seed in range(200)]
    assert_unbiased([one.value for one in found], [one.error for one in found], TRACE)


def test_it_is_the_estimator_of_the_paper() -> None:
    """Each probe left out in turn, by a basis of the others' products; grown in blocks."""
    matrix, sketch = SPECTRA["geometric"], _Sketch(operator(SPECTRA["geometric"]), torch.Generator().manual_seed(0))
    for count in (5, 3):
        sketch.grow(count)

    def left_out(i: int, *more: int) -> Tensor:
        others = [j for j in range(8) if j not in (i, *more)]
        basis = torch.linalg.qr((sketch.probes[others] @ matrix).T)[0]
        rest = sketch.probes[i] - basis @ (basis.T @ sketch.probes[i])
        scale = (80 - len(others)) / rest.square().sum()
        value: Tensor = (basis.T @ matrix @ basis).trace() + scale * (rest @ matrix @ rest)
        return value

    one_out = torch.stack([left_out(i) for i in range(8)])
    gains = torch.tensor([[0.0 if i == j else one_out[i] - left_out(i, j) for j in range(8)] for i in range(8)])
    variance = one_out.var() / 8 + max(float((gains * gains.T).sum()) / 56, 0)
    found = sketch.estimate()
    assert found.value == pytest.approx(float(one_out.mean()), rel=1e-10)
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-5)


def test_the_error_of_hutchinsons_trace_is_the_analytic_one() -> None:
    """Rademacher probes have the variance 2 (|H|_F^2 - sum H_ii^2)."""
    found = measure.trace(operator(MATRIX), probes=4000, at_least=4000, sketch=0)
    variance = 2 * (MATRIX.square().sum() - MATRIX.diag().square().sum())
    assert found.error * math.sqrt(4000) == pytest.approx(math.sqrt(variance), rel=0.05)


def test_on_falling_eigenvalues_the_error_falls_with_them() -> None:
    matrix = SPECTRA["geometric"]

    def deviation(probes: int, sketch: int) -> float:
        found = [
            measure.trace(operator(matrix), probes=probes, at_least=probes, sketch=sketch, seed=s) for s in range(40)
        ]
        return float(torch.tensor([one.value - float(matrix.trace()) for one in found]).square().mean().sqrt())

    assert deviation(32, 32) < deviation(8, 8) / 100  # 0.8^24 = 1 / 212, where four times the products give 1 / 2
    assert deviation(16, 16) < deviation(32, 0) / 4  # by equally many products


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("probes", [8, 40])
def test_it_is_exact_where_the_rank_is_below_the_probes(probes: int, dtype: torch.dtype) -> None:
    close = 1e3 * torch.finfo(dtype).eps
    for seed in range(20):
        matrix = operator(RANK_5.to(dtype))
        found = measure.trace(matrix, probes=probes, at_least=probes, sketch=probes, seed=seed)
        assert found.value == pytest.approx(15, rel=close)
        assert found.error < 15 * close


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_matrix_that_is_mostly_zero(dtype: torch.dtype) -> None:
    """Its products lie on the axes to the last bit, and in the second block nothing new comes."""
    few = torch.diag(torch.cat([torch.arange(1.0, 4.0), torch.zeros(197)])).to(dtype)
    for tolerance in (0.0, 0.01):
        found = measure.trace(operator(few), tolerance=tolerance, probes=40)
        assert found.value == pytest.approx(6, rel=1e-10 if dtype == torch.float64 else 1e-5)
        assert found.draws == (40 if tolerance == 0 else 16)
    assert measure.trace(operator(0 * few)) == measure.Estimate(0.0, 0.0, 16)


def test_a_small_matrix_is_summed_up_by_unit_vectors() -> None:
    found = measure.trace(operator(MATRIX))
    assert (found.error, found.draws) == (0, 0)
    assert found.value == pytest.approx(TRACE, rel=1e-12)
    assert measure.trace(operator(MATRIX), sketch=20).draws == 0
    assert measure.trace(operator(MATRIX), sketch=19).draws > 0


def test_the_trace_stops_on_its_error() -> None:
    for matrix, sketch in ((SPECTRA["flat"], 0), (SPECTRA["algebraic"], 39)):
        truth = float(matrix.trace())
        loose = measure.trace(operator(matrix), tolerance=0.2, at_least=4, sketch=sketch)
        tight = measure.trace(operator(matrix), tolerance=0.01, at_least=4, probes=100_000, sketch=sketch)
        assert loose.draws < tight.draws
        assert tight.error <= 0.01 * abs(tight.value)
        assert abs(tight.value - truth) < 4 * tight.error
    assert measure.trace(operator(MATRIX), tolerance=0.0, probes=40, sketch=0).draws == 40
    assert measure.trace(operator(MATRIX), tolerance=0.0, probes=18, sketch=19).draws == 18


def test_a_product_is_made_once() -> None:
    """Growing keeps what there is: two products a probe, one a sign."""
    made: list[int] = []

    def counted(vectors: Tensor) -> Tensor:
        made.append(len(vectors))
        return vectors @ MATRIX

    matrix = Operator(counted, 40, torch.float64, torch.device("cpu"))
    assert measure.trace(matrix, tolerance=0.0, probes=19, at_least=4, sketch=19).draws == 19
    assert sum(made) == 38
    made.clear()
    assert measure.trace(matrix, tolerance=0.0, probes=50, at_least=16, sketch=10).draws == 50
    assert sum(made) == 20 + 50


def test_what_does_not_fit_into_memory_is_seen_by_signs() -> None:
    for vectors in (0, 8):
        bound = measure.trace(operator(MATRIX), probes=64, at_least=16, memory=vectors * 2 * 40 * 8)
        asked = measure.trace(operator(MATRIX), probes=64, at_least=16, sketch=vectors)
        assert bound == asked


def test_the_sketch_takes_large_eigenvalues_out_of_the_error() -> None:
    plain = measure.trace(operator(MATRIX), probes=64, at_least=64, sketch=0)
    sketched = measure.trace(operator(MATRIX), probes=64, at_least=64, sketch=8)
    assert sketched.error < plain.error / 3


def test_another_seed_is_another_draw() -> None:
    for sketch in (0, 19):
        assert measure.trace(operator(MATRIX), sketch=sketch) == measure.trace(operator(MATRIX), sketch=sketch)
        assert measure.trace(operator(MATRIX), sketch=sketch, seed=1) != measure.trace(operator(MATRIX), sketch=sketch)


def test_the_trace_of_a_net() -> None:
    matrix, truth = measure.hessian(objective()), float(dense_hessian().trace())
    assert measure.trace(matrix).value == pytest.approx(truth, rel=1e-10)
    found = measure.trace(matrix, tolerance=0.02, sketch=20)
    assert found.draws > 0
    assert abs(found.value - truth) < 4 * found.error


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(UserError, match="needs 2 <= at_least <= probes"):
        measure.trace(operator(MATRIX), probes=1, at_least=1)
    with pytest.raises(UserError, match="of type Objective: give hessian"):
        measure.trace(objective())  # type: ignore[arg-type]
    broken = operator(torch.full((40, 40), torch.nan, dtype=torch.float64))
    for sketch in (0, 8, 19, 64):
        with pytest.raises(UserError, match="not finite"):
            measure.trace(broken, sketch=sketch)
