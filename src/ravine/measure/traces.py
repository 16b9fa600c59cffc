"""The trace of a symmetric matrix that is known by its products: stochastic, with a standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ravine.curvature import Operator, require_operator
from ravine.errors import UserError
from ravine.measure.estimate import Estimate, mean

AT_ONCE = 8  # vectors whose products are taken together


def trace(
    matrix: Operator,
    *,
    tolerance: float = 0.05,
    probes: int = 1000,
    at_least: int = 16,
    sketch: int = 64,
    memory: int = 2**30,
    seed: int = 0,
) -> Estimate:
    """tr H by XTrace (Epperly, Tropp and Webber 2024), and by Hutchinson's mean where that takes too many vectors.

    XTrace: normal probes w_1 .. w_k, and an orthonormal basis Q of the H w_j. Each probe is left out in turn; Q_i, a
    basis of the other products, does not depend on w_i, and so each

        t_i = tr Q_i' H Q_i + (P - k + 1) r_i' H r_i / |r_i|^2,   r_i = (I - Q_i Q_i') w_i,

    is unbiased (sections 2.1 to 2.3, H symmetric); the value is their mean. A probe costs two products. The error
    falls with the eigenvalues beyond the k-th, and of a matrix of rank below k nothing but rounding is left.

    Error: the t_i share the other probes, so that std(t) / sqrt(k), the paper's estimate, is up to a third too small
    where eigenvalues fall fast. Let t_ij be t_i without the product of probe j as well. Given the other probes, t_i has
    the mean tr H at any w_j, and t_ij depends on w_i alone, so that the mean of (t_i - t_ij)(t_j - t_ji) over pairs is
    an unbiased estimate of cov(t_i, t_j), and var(t) / k plus it one of the variance of the value. It is taken as at
    least 0.

    The probes grow in blocks, up to `sketch` of them, or to as many as fit into `memory` bytes with their Q (two
    vectors of the size of the model for each). From there on Q stays, with its part tr Q' H Q of the trace, and fresh
    random signs v, a product each, see the rest by the mean of v' (I - QQ') H (I - QQ') v (Hutchinson 1989; behind
    such a basis Hutch++, Meyer et al. 2021). sketch=0 is Hutchinson's estimate alone: for the same error it takes half
    the products of XTrace where no eigenvalues stand out. Where P <= 2 `sketch` all is exact, by unit vectors.

    Stops when the error is at most tolerance |value|, after `at_least` probes, or at `probes` of them; the signs are
    counted apart. The estimate is unbiased at a fixed number of probes (at_least = probes).

    Returns value and error in units of H, and the number of probes or signs that the error is of (0: exact).

    Raises UserError when there are fewer than two probes, or a product is not finite.
    """
    require_operator(matrix)
    if not 2 <= at_least <= probes:
        raise UserError(f"a trace with a standard error needs 2 <= at_least <= probes, not {at_least} and {probes}")
    sketch = min(sketch, memory // (2 * matrix.size * matrix.dtype.itemsize))
    if matrix.size <= 2 * sketch:
        units = torch.eye(matrix.size, dtype=matrix.dtype, device=matrix.device)
        return Estimate(_finite(float(products(matrix, units).diagonal().double().sum())), 0.0)

    def enough(found: Estimate) -> bool:
        met = found.draws >= at_least and found.error <= tolerance * abs(_finite(found.value))
        return met or found.draws >= probes

    generator = torch.Generator().manual_seed(seed)
    basis = _Sketch(matrix, generator)
    while basis.count < sketch:
        block = AT_ONCE if basis.count else at_least
        basis.grow(min(block, min(sketch, probes) - basis.count))
        if basis.count >= at_least and enough(found := basis.estimate()):
            return found
    known, frame = float(basis.inside.trace()), basis.frame
    draws: list[float] = []
    while True:
        count = min(AT_ONCE, probes - len(draws))
        vectors = (torch.randint(0, 2, (count, matrix.size), generator=generator) * 2 - 1).to(frame)
        vectors -= (vectors @ frame.T) @ frame
        draws += (vectors * products(matrix, vectors)).sum(1).tolist()
        rest = mean(draws)
        if enough(found := Estimate(known + rest.value, rest.error, rest.draws)):
            return found


class _Sketch:
    """Probes w_j with an orthonormal basis Q of their products, and in its coordinates, float64, all that XTrace needs.

    probes, frame: (k, P), the w_j and the basis. seen, images: (k, k), columns Q' w_j and Q' H w_j. inside: Q' H Q.
    """

    def __init__(self, matrix: Operator, generator: torch.Generator) -> None:
        self.matrix, self.generator = matrix, generator
        self.probes = self.frame = torch.zeros(0, matrix.size, dtype=matrix.dtype, device=matrix.device)
        self.seen = self.images = self.inside = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def count(self) -> int:
        """Probes so far."""
        return len(self.probes)

    def grow(self, count: int) -> None:
        """Take more probes, two products each."""
        fresh, old = self._normal(count), self.probes
        images = products(self.matrix, fresh)
        # As much noise as rounding is: where the matrix has no new direction left, a random one comes.
        lengths = images.norm(dim=1, keepdim=True)
        noise = torch.finfo(images.dtype).eps * torch.where(lengths > 0, lengths, 1) / math.sqrt(self.matrix.size)
        basis = _orthonormal(images + noise * self._normal(count), self.frame)
        self.probes, self.frame = torch.cat([old, fresh]), torch.cat([self.frame, basis])
        inside = _inner(self.frame, products(self.matrix, basis))
        self.inside = _bordered(self.inside, inside, inside[: len(old)].T)
        self.seen = _bordered(self.seen, _inner(self.frame, fresh), _inner(basis, old))
        self.images = _bordered(self.images, _inner(self.frame, images), inside.new_zeros(count, len(old)))

    def estimate(self) -> Estimate:
        """The mean of the t_i, with its error."""
        one_out, two_out = self._left_out()
        gains = (one_out[:, None] - two_out).fill_diagonal_(0)
        shared = float((gains * gains.T).sum()) / (self.count * (self.count - 1))
        alone = mean(one_out.tolist())
        return Estimate(alone.value, math.sqrt(alone.error**2 + max(shared, 0.0)), self.count)

    def _left_out(self) -> tuple[Tensor, Tensor]:
        """(the t_i (k,), the t_ij (k, k), whose diagonal means nothing).

        Q_i Q_i' = Q (I - s s') Q' with the unit vector s = s_i that is normal to all images but the i-th: a row of the
        inverse. Without j too it is Q (I - s s' - f f') Q', with f the part of s_j that is orthogonal to s_i. With w
        and y the coordinates of w_i and of H w_i, a projected probe r has r' H r = y' w - 2 y' u + u' H u and the
        squared length |w_i|^2 - |u|^2, where u = w - s s' w, or that less f f' w.
        """
        w, y, h = self.seen.T, self.images.T, self.inside
        room, tiny = self.matrix.size - self.count + 1, torch.finfo(torch.float64).eps
        # A rank below k leaves zeros on the diagonal of the images; then any s that is normal to them will do.
        least = torch.full_like(y.diagonal(), tiny * (float(y.abs().max()) or 1.0)).copysign(y.diagonal())
        s = torch.linalg.inv(self.images + torch.diag(least))
        s = s / s.norm(dim=1, keepdim=True)
        along, bend = w @ s.T, s @ h @ s.T  # [i, j]: s_j' w_i, s_i' H s_j
        u = w - along.diagonal()[:, None] * s
        square = self.probes.square().sum(1).double().cpu() - u.square().sum(1)
        rest = (y * (w - 2 * u)).sum(1) + (u @ h * u).sum(1)
        known = h.trace() - bend.diagonal()
        one_out = known + room * rest / square

        def own(values: Tensor) -> Tensor:
            return values.diagonal()[:, None]

        c = s @ s.T
        root = (1 - c.square()).clamp(min=tiny).sqrt()
        fw = (along - c * own(along)) / root
        fy = -c * (y * s).sum(1)[:, None] / root  # s_j is normal to y
        pull = u @ h @ s.T
        fhu = (pull - c * own(pull)) / root
        fhf = (bend.diagonal() - 2 * c * bend + c.square() * own(bend)) / root.square()
        rests = rest[:, None] + 2 * fw * (fy - fhu) + fw.square() * fhf
        return one_out, known[:, None] - fhf + (room + 1) * rests / (square[:, None] + fw.square())

    def _normal(self, count: int) -> Tensor:
        return torch.randn(count, self.matrix.size, generator=self.generator).to(self.probes)


def _orthonormal(rows: Tensor, frame: Tensor) -> Tensor:
    """An orthonormal basis of what rows add to those of a frame; twice, because rounding may be all that they add."""
    for _ in range(2 if len(frame) else 1):
        rows = torch.linalg.qr((rows - (rows @ frame.T) @ frame).T)[0].T
    return rows


def _inner(rows: Tensor, others: Tensor) -> Tensor:
    return (rows @ others.T).double().cpu()


def _bordered(corner: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """A square matrix with new columns (all of their entries) and new rows (below the old columns)."""
    return torch.cat([torch.cat([corner, rows]), columns], dim=1)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise UserError("a product with the curvature matrix is not finite: training has diverged or divides by 0")
    return value


def products(matrix: Operator, vectors: Tensor) -> Tensor:
    """The products with some vectors, (k, P).

    On a CPU they come one after the other whatever k is; elsewhere together, where a few at a time bound the memory.
    """
    if vectors.device.type == "cpu":
        return matrix(vectors)
    return torch.cat([matrix(block) for block in torch.split(vectors, AT_ONCE)])
