"""Spectral density of a symmetric matrix that is known by its products: stochastic, with standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.curvature import Operator, require_operator
from ravine.errors import UserError
from ravine.measure.estimate import Estimate, mean
from ravine.measure.traces import products


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Eigenvalues as nodes with weights: of each of n random starts, m nodes (n, m) with weights (n, m) that sum to 1.

    A function f of the matrix has the mean eigenvalue sum_i weight_i f(node_i): exact up to degree 2 m - 1 for the
    start, and for the matrix in the mean over starts.
    """

    nodes: Tensor
    weights: Tensor

    def moment(self, power: int) -> Estimate:
        """tr(H^power) / P, over the starts."""
        return mean((self.weights * self.nodes**power).sum(1).tolist())

    def share_below(self, level: float) -> Estimate:
        """The share of eigenvalues below a level, over the starts; -0 counts as 0."""
        return mean((self.weights * (self.nodes < level)).sum(1).tolist())

    def at(self, grid: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """The density on a grid (g,), each node a Gaussian of this standard deviation: (mean, standard error), (g,)."""
        offset = (grid.double()[:, None, None] - self.nodes) / width
        bells = (-(offset**2) / 2).exp() / (width * math.sqrt(2 * math.pi))
        curves = (bells * self.weights).sum(2)
        return curves.mean(1), curves.std(1) / math.sqrt(curves.shape[1])


def spectral_density(
    matrix: Operator,
    *,
    starts: int = 8,
    nodes: int = 30,
    seed: int = 0,
    vectors: Tensor | None = None,
) -> SpectralDensity:
    """The density of eigenvalues by stochastic Lanczos quadrature, starts x nodes products.

    Each start v, uniform on the sphere, gives the tridiagonal T = U diag(theta) U' of `nodes` Lanczos steps with full
    re-orthogonalization, and the quadrature of nodes theta_i with weights U_1i^2 (Golub and Welsch; Ghorbani et al.
    2019). Memory: `nodes` vectors for all starts at once, so starts x nodes x size numbers.

    vectors: (starts, P), finite and not zero, in place of random ones. Then it is the density of *their* squared length
    over the eigenvalues, v' f(H) v / |v|^2 = sum_i weight_i f(node_i): where a gradient lies, or its noise.
    """
    require_operator(matrix)
    size, dtype, device = matrix.size, matrix.dtype, matrix.device
    if vectors is None:
        if starts < 2:
            raise UserError(f"a density with a standard error needs 2 starts, not {starts}")
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(starts, size, generator=generator, dtype=torch.float64)
    if nodes < 1:
        raise UserError(f"a density needs at least 1 node, not {nodes}")
    lengths = vectors.norm(dim=1, keepdim=True)
    if not (lengths.isfinite().all() and (lengths > 0).all()):
        raise UserError("a vector to start from is zero or not finite")
    starts, steps = len(vectors), min(nodes, size)
    current = (vectors / lengths).to(device, dtype)
    basis = torch.zeros(starts, steps, size, dtype=dtype, device=device)
    small = torch.zeros(starts, steps, steps, dtype=torch.float64)
    for j in range(steps):
        basis[:, j] = current
        rest = products(matrix, current)
        for _ in range(2):  # the second time removes what rounding left
            inside = torch.einsum("sjp,sp->sj", basis[:, : j + 1], rest)
            rest = rest - torch.einsum("sjp,sj->sp", basis[:, : j + 1], inside)
            small[:, j, j] += inside[:, j].double().cpu()
        if j + 1 == steps:
            break
        left = rest.norm(dim=1)
        # A closed basis leaves rounding only: its weight is 0, wherever the further nodes lie.
        left = torch.where(left > 100 * torch.finfo(dtype).eps * small.abs().amax((1, 2)).to(left), left, 0)
        small[:, j, j + 1] = small[:, j + 1, j] = left.double().cpu()
        current = rest / torch.where(left > 0, left, torch.inf)[:, None]
    if not small.isfinite().all():
        raise UserError("a product with the curvature matrix is not finite: training has diverged or divides by 0")
    theta, shapes = torch.linalg.eigh(small)
    return SpectralDensity(theta, shapes[:, 0, :] ** 2)
