"""The largest eigenvalues of a symmetric matrix that is known by its products: Lanczos with thick restarts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.curvature import Operator, require_operator
from ravine.errors import UserError


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """The largest (algebraic) eigenvalues, falling, and their vectors.

    values: (k,). vectors: (k, P), orthonormal; the start of the next search. residuals: |H q - theta q| (k,), a bound
    on the distance to an eigenvalue. products: how many it took. converged: whether all residuals met the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool


def top_eigenvalues(
    matrix: Operator,
    count: int = 1,
    *,
    tolerance: float = 1e-3,
    start: Tensor | None = None,
    basis: int = 20,
    max_products: int = 300,
    seed: int = 0,
) -> Eigenpairs:
    """The `count` largest eigenvalues of a symmetric matrix, by Lanczos with full re-orthogonalization.

    Stops when every residual is at most tolerance |theta|, or after `max_products`. start: vectors (k, P) of an
    earlier search, which saves most of the products; a little noise is added, because an old eigenvector can be blind
    to a new one. basis: vectors kept, at least 2 count + 8, without which a search for several hardly moves; when it is
    full, the search goes on with the best half (Wu and Simon 2000). The largest in *value* are found, where a power
    iteration finds the largest in magnitude; of an exactly multiple eigenvalue one copy may be found where there are
    several.

    Raises UserError when the matrix is not finite or `count` is no number of eigenvalues of it.
    """
    require_operator(matrix)
    size, dtype, device = matrix.size, matrix.dtype, matrix.device
    if start is not None and not (start.isfinite().all() and start.any()):
        raise UserError("start= is zero or not finite: leave it out, or give the vectors of an earlier search")
    if not 1 <= count <= size:
        raise UserError(f"a matrix of size {size} has no {count} eigenvalues; give a count of 1 to {size}")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)
    first = noise / noise.norm()
    if start is not None:
        old = start.reshape(-1, size).to(device, dtype).sum(0)
        first = old / old.norm() + 0.03 * first
    capacity = min(size, max(basis, 2 * count + 8))
    vectors = torch.zeros(capacity, size, dtype=dtype, device=device)  # the basis Q, a row each
    small = torch.zeros(capacity, capacity, dtype=torch.float64)  # Q H Q'
    vectors[0] = first / first.norm()
    filled, done, scale = 1, 0, 0.0
    while True:
        image = matrix(vectors[filled - 1 : filled])[0]
        done += 1
        rest, inside = _without(image, vectors[:filled])
        if not rest.isfinite().all():
            raise UserError("a product with the curvature matrix is not finite: training has diverged or divides by 0")
        small[filled - 1, :filled] = small[:filled, filled - 1] = inside.double().cpu()
        left = float(rest.norm())
        values, shapes = torch.linalg.eigh(small[:filled, :filled])
        residuals = left * shapes[-1].abs()
        scale = max(scale, float(values.abs().max()))
        best = slice(max(filled - count, 0), filled)
        floor = scale * 10 * torch.finfo(dtype).eps
        met = filled >= count and bool((residuals[best] <= (tolerance * values[best].abs()).clamp(min=floor)).all())
        exhausted = filled == size or done >= max_products
        if (met and (done > 1 or size == 1)) or exhausted:
            top = (shapes[:, best].T.to(vectors) @ vectors[:filled]).flip(0)
            return Eigenpairs(values[best].flip(0), top, residuals[best].flip(0), done, met or filled == size)
        if filled == capacity:
            keep = min(count + (capacity - count) // 2, capacity - 1)
            vectors[:keep] = shapes[:, -keep:].T.to(vectors) @ vectors
            small.zero_()
            small[:keep, :keep] = torch.diag(values[-keep:])
            filled = keep
        if left <= floor:  # the basis is closed under H: go on in a fresh direction
            fresh = torch.randn(size, generator=generator, dtype=torch.float64).to(vectors)
            rest, _ = _without(fresh, vectors[:filled])
            left = float(rest.norm())
        vectors[filled] = rest / left
        filled += 1


def _without(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """(the part of `vector` orthogonal to the rows of `basis`, its coefficients); twice is enough (Kahan)."""
    inside = basis @ vector
    rest = vector - inside @ basis
    again = basis @ rest
    return rest - again @ basis, inside + again
