"""How much of a gradient is noise: noise scale, coherence, and the noise of the search direction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from ravine.curvature import Objective, require_finite
from ravine.errors import UserError
from ravine.measure.estimate import Estimate, mean, ratio_of_means

BLOCKS = 16  # of the jackknife
AT_ONCE = 2**24  # numbers in the gradients of single examples that are in memory together


@dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale at fixed parameters (McCandlish et al. 2018).

    squared_norm: |G|^2 of the true gradient, unbiased: below 0 where noise hides it, and then not clamped.
    trace: tr Sigma of the covariance of one example's gradient, unbiased.
    ratio: B_simple = tr Sigma / |G|^2, the batch size at which noise and gradient are equally large: a ratio of means.
    rows: examples that it was measured on. sample_coherence: rows |mean g|^2 / mean |g_i|^2 of these single examples,
    from 1 (orthogonal) to rows (identical), below 1 where they cancel (m-coherence, Chatterjee and Zielinski 2020);
    None for groups of several.
    """

    squared_norm: Estimate
    trace: Estimate
    ratio: Estimate
    rows: int
    sample_coherence: Estimate | None = None

    @property
    def hidden(self) -> bool:
        """Whether |G|^2 cannot be told from 0, so that only a lower bound of the noise scale is known."""
        return not self.squared_norm.interval()[0] > 0

    @property
    def at_least(self) -> float:
        """A lower bound of B_simple: the low end of tr Sigma over the high end of |G|^2."""
        high = self.squared_norm.interval()[1]
        return max(self.trace.interval()[0], 0.0) / high if high > 0 else math.inf

    @property
    def coherence(self) -> Estimate:
        """alpha = |G|^2 / (|G|^2 + tr Sigma) = 1 / (1 + B_simple), the share of signal in one example's gradient."""
        total = self.squared_norm.value + self.trace.value
        share = self.squared_norm.value / total if total else math.nan
        return Estimate(share, share**2 * self.ratio.error, self.ratio.draws)

    def __str__(self) -> str:
        if self.hidden:
            return f"noise dominates: B_simple is above {self.at_least:.3g}"
        return f"B_simple = {self.ratio}"


def noise_scale(
    objective: Objective, small: int | None = None, *, population: int | None = None, blocks: int = BLOCKS
) -> NoiseScale:
    """The noise scale from the gradients of disjoint groups of `small` rows, at frozen parameters.

    With K groups of b rows, B = K b: the unbiased pair |G|^2 = (B |G_B|^2 - b mean |G_b|^2) / (B - b) and tr Sigma =
    (mean |G_b|^2 - |G_B|^2) / (1/b - 1/B). small=1 takes single examples (by vmap, so not with BatchNorm); None takes
    the parts of the objective as they are. Rows that do not fill a group are left out. Standard errors by a
    delete-one jackknife over at most `blocks` blocks of groups; the memory is that many gradients.

    population: how many rows there are in all, where those of the objective were drawn from them without replacement;
    |G|^2 is then that of all of them, and its error smaller by sqrt(1 - B / population). Without it they count as
    independent draws.

    Raises UserError when there are fewer than two groups, or a gradient is not finite.
    """
    groups = _per_example(objective) if small == 1 else _grouped(objective, small)
    size = 0
    total = 0
    sums = torch.zeros(blocks, objective.size, dtype=objective.dtype, device=objective.device)
    squares = torch.zeros(blocks, dtype=torch.float64, device=objective.device)
    counts = torch.zeros(blocks, dtype=torch.float64)
    for rows, gradients in groups:
        if rows != (size := size or rows):
            raise UserError(f"a noise scale needs groups of equal size, not {size} and {rows} rows: give small=")
        if not gradients.isfinite().all():
            for k, gradient in enumerate(gradients):
                require_finite(objective, gradient, f"in group {total + k}")
        places = torch.arange(total, total + len(gradients)) % blocks
        sums.index_add_(0, places.to(sums.device), gradients)
        squares.index_add_(0, places.to(sums.device), gradients.double().square().sum(1))
        counts += places.bincount(minlength=blocks)
        total += len(gradients)
    if total < 2:
        raise UserError(
            f"a variance needs at least two groups of rows, and this is one of {size}: "
            + ("a batch of one example has none" if size == 1 else "give a smaller small=, or more rows")
        )
    sums, squares, counts = sums[:total], squares[:total].cpu(), counts[:total]
    whole = sums.sum(0)
    norms = torch.stack([whole.double().square().sum(), *((whole - one).double().square().sum() for one in sums)]).cpu()
    q = squares.sum() - torch.cat([torch.zeros(1), squares])
    n = counts.sum() - torch.cat([torch.zeros(1), counts])
    if len(counts) < 3:
        n = n[:1]  # without one of two groups there is no variance left
    pair = [_pair(float(a), float(b), float(c), size, population) for a, b, c in zip(q, norms, n, strict=False)]
    signals, spreads = (list(k) for k in zip(*pair, strict=True))
    if population is not None:  # what a block changes, all other rows of the population would change back in part
        left = math.sqrt(max(1 - total * size / population, 0.0))
        signals = [signals[0] + left * (one - signals[0]) for one in signals]
    signal, spread = (Estimate(k[0], _jackknife(k[1:]), len(k) - 1) for k in (signals, spreads))
    ratios = [s / g if g else math.inf for g, s in zip(signals, spreads, strict=True)]
    ratio = Estimate(ratios[0], _jackknife(ratios[1:]), len(ratios) - 1)
    coherent = None
    if size == 1 and squares.any():
        shares = [total * float(a / (b * c)) for a, b, c in zip(norms, q, n, strict=False)]
        coherent = Estimate(shares[0], _jackknife(shares[1:]), len(shares) - 1)
    return NoiseScale(signal, spread, ratio, total * size, coherent)


def pooled(measurements: Sequence[NoiseScale]) -> NoiseScale:
    """One noise scale from several measurements, by the ratio of means; errors from how the measurements differ.

    Measurements along a run are not quite independent, and their mean is that of a moving gradient.
    """
    if not measurements:
        raise UserError("there is no noise scale to pool; measure at least one")
    if len(measurements) == 1:
        return measurements[0]
    signals = [one.squared_norm.value for one in measurements]
    spreads = [one.trace.value for one in measurements]
    rows = sum(one.rows for one in measurements)
    return NoiseScale(mean(signals), mean(spreads), ratio_of_means(spreads, signals), rows)


def search_direction_noise(directions: Sequence[Tensor], gradients: Sequence[Tensor] | Tensor) -> Estimate:
    """E |d - G|^2, the noise of the search direction d around the full gradient G (Sato and Iiduka 2024).

    directions: (P,) each, what the optimizer steps along: (w_t - w_(t+1)) / lr. gradients: the full gradient at the
    same point for each, or one for all. Draws at one point are independent; along a run the error is too small.
    """
    fixed = itertools.repeat(gradients, len(directions)) if isinstance(gradients, Tensor) else gradients
    return mean([float((d - g).double().square().sum()) for d, g in zip(directions, fixed, strict=True)])


def smoothing(lr: float, noise: Estimate) -> Estimate:
    """The degree of smoothing, lr sqrt(E |d - G|^2): training follows the loss averaged over a ball of this radius.

    `ravine.schedules.noise.degree_of_smoothing` is the paper's upper bound of it.
    """
    root = math.sqrt(max(noise.value, 0.0))
    return replace(noise, value=lr * root, error=lr * noise.error / (2 * root) if root else math.nan)


def _pair(q: float, norm: float, count: float, size: int, population: int | None) -> tuple[float, float]:
    """(|G|^2, tr Sigma) of `count` groups of `size` rows: q the sum of their |g|^2, norm the |sum of g|^2."""
    spread = size * (q - norm / count) / (count - 1)
    correction = 1.0 if population is None else 1 - count * size / population
    return norm / count**2 - spread * correction / (count * size), spread


def _jackknife(values: Sequence[float]) -> float:
    """The standard error from the values without each block in turn."""
    if len(values) < 2:
        return math.nan
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(((tensor - tensor.mean()).square().sum() * (len(values) - 1) / len(values)).sqrt())


def _grouped(objective: Objective, small: int | None) -> Iterator[tuple[int, Tensor]]:
    """(rows of a group, its gradient (1, P)) of each group."""
    if small is None:
        for rows, gradient in objective.gradients():
            yield rows, gradient[None]
        return
    cut = objective.resized(small)
    full = [part for part in cut.parts if part.rows == small]
    if not full:
        raise UserError(f"no batch of the objective has {small} rows; give a smaller small=")
    for part in full:
        yield small, cut.part_gradient(part)[None]


def _per_example(objective: Objective) -> Iterator[tuple[int, Tensor]]:
    """(1, gradients of some rows (n, P)) until all rows had their turn, by vmap over the rows of a part."""
    if objective.mode == "train" and any(isinstance(m, _BatchNorm) and m.training for m in objective.model.modules()):
        raise UserError(
            "BatchNorm in train mode mixes the examples of a batch, so single examples have no gradient: "
            "take groups (small=8), or mode='eval'"
        )
    caller = objective.caller()
    prefix = {f"model.{name}": p.detach() for name, p in objective.model.named_parameters() if p.requires_grad}
    rest = {f"model.{name}": t.detach() for name, t in objective.model.named_parameters() if not t.requires_grad}
    rest |= {f"model.{name}": t.detach() for name, t in objective.model.named_buffers()}

    def loss(parameters: dict[str, Tensor], row: object) -> Tensor:
        one = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, row)
        value: Tensor = functional_call(caller, {**rest, **parameters}, (one,))
        return value

    each = vmap(grad(loss), in_dims=(None, 0), randomness="different")
    for part in objective.resized(max(1, AT_ONCE // objective.size)).parts:
        try:
            with objective.fixed(part):
                slopes = each(prefix, part.batch)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"the gradients of single rows cannot be taken together ({reason:.120}): take groups, small=2 or more"
            ) from None
        yield 1, torch.cat([slope.flatten(1) for slope in slopes.values()], 1)
