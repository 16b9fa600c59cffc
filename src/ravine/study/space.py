"""Where a method is searched: the range of its learning rate, found by a probe, and the points of its trials.

One rule for all methods. Ranges belong to a method, points belong to the study: methods of the same dimension get the
same points of the unit cube.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from ravine.fleet.keys import key
from ravine.study.methods import Axis, Hyper, Method

Floats: TypeAlias = NDArray[np.float64]
Side: TypeAlias = Literal["lower", "upper"]

PROBE_STEPS = 50
FIRST_PROBE = range(-20, 13)  # exponents of two
WIDEST_PROBE = range(-40, 41)
PROBE_STRIDE = 8  # doublings added at once when the top of the probe still trains

DECADES = 3  # width of a learning rate's range
SMALLEST_COMPLEMENT, LARGEST_COMPLEMENT = 0.003, 0.5  # of 1 - momentum
LOCAL_FACTOR = {"lr": 2.0, "complement": 3.0}
EDGE = 0.1  # outer share of a log range in which a winner counts as at the boundary


@dataclass(frozen=True)
class Shares:
    """How the K trials of a method are used: face (runs of the contained method) + coarse + local = K."""

    face: int
    coarse: int
    local: int


def shares(trials: int, face: bool) -> Shares:
    """Half the trials cover the box, half go where it is good; with a face, half of the first half lies on it.

    local = floor(K/2), face = floor(K/4) or 0, coarse = the rest, which is at least 1 for K >= 1.
    """
    local, reused = trials // 2, trials // 4 if face else 0
    return Shares(reused, trials - local - reused, local)


def quarter(count: int) -> int:
    """A quarter, at least 1: of the trials for an extension and the equal-dimension search."""
    return max(1, count // 4)


# --- the range of the learning rate -----------------------------------------------------------------------------------


def probe_steps(steps: int) -> int:
    """Steps of a probe run: min(T, 50)."""
    return min(steps, PROBE_STEPS)


def failing_exponent(changes: Mapping[int, float]) -> int | None:
    """Smallest doubling above the best probed one that does not train; None if all above it train, or none trains.

    changes: exponent of two -> median of (final - initial) training loss, inf where diverged. Scanned upwards from the
    best one, because at tiny learning rates the loss may stand still within rounding.
    """
    best = _best_exponent(changes)
    if best is None:
        return None
    return min((e for e, change in changes.items() if e > best and not change < 0), default=None)


def _best_exponent(changes: Mapping[int, float]) -> int | None:
    best = min(sorted(changes), key=lambda exponent: changes[exponent], default=None)
    return best if best is not None and changes[best] < 0 else None


def exponents_to_probe(changes: Mapping[int, float]) -> tuple[int, ...]:
    """The learning rates 2^e to probe next; () when the range is known or nothing is left to try."""
    if not changes:
        return tuple(FIRST_PROBE)
    if _best_exponent(changes) is None:
        return tuple(e for e in WIDEST_PROBE if e not in changes)
    if failing_exponent(changes) is None:
        top = max(changes) + 1
        return tuple(range(top, min(top + PROBE_STRIDE, WIDEST_PROBE.stop)))
    return ()


def lr_range(changes: Mapping[int, float]) -> tuple[float, float] | None:
    """(low, high) of a finished probe: high = twice the smallest failing doubling, low = 1e-3 high.

    None if no learning rate trains. If all up to 2^40 do, as with a bounded loss: three decades around the best.
    """
    best, failing = _best_exponent(changes), failing_exponent(changes)
    if best is None:
        return None
    high = 2.0 ** (failing + 1) if failing is not None else 2.0**best * 10 ** (DECADES / 2)
    return high * 10.0**-DECADES, high


# --- the box and its points -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A box in (lr, 1 - momentum), log-uniform on every axis; `low` and `high` are in those coordinates, lr first."""

    axes: tuple[Axis, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def dimension(self) -> int:
        """Number of searched hyper-parameters."""
        return len(self.axes)

    def hyper(self, unit: Floats) -> Hyper:
        """The setting at a point of the unit cube, shape (dimension,), in numbers short enough to be typed."""
        pairs = []
        for axis, low, high, u in zip(self.axes, self.low, self.high, unit, strict=True):
            coordinate = float(f"{math.exp(math.log(low) + float(u) * math.log(high / low)):.8g}")
            pairs.append((axis.name, coordinate if axis.kind == "lr" else round(1 - coordinate, 12)))
        return tuple(sorted(pairs))

    def coordinates(self, setting: Hyper) -> tuple[float, ...]:
        """The learning rate and 1 - momentum of a setting, in the order of the axes."""
        return coordinates(self.axes, setting)

    def around(self, setting: Hyper) -> "Box":
        """The part of the box within a factor 2 in lr and 3 in 1 - momentum of a setting inside it."""
        factors = [LOCAL_FACTOR[axis.kind] for axis in self.axes]
        at = self.coordinates(setting)
        low = tuple(max(a, c / f) for a, c, f in zip(self.low, at, factors, strict=True))
        high = tuple(min(b, c * f) for b, c, f in zip(self.high, at, factors, strict=True))
        return replace(self, low=low, high=high)

    def edge(self, setting: Hyper, axis: Axis) -> Side | None:
        """The boundary that a setting is at: in the outer 10 % of the axis' log range. A range of no width has none."""
        i = self.axes.index(axis)
        width = math.log(self.high[i] / self.low[i])
        if width == 0:
            return None
        place = math.log(self.coordinates(setting)[i] / self.low[i]) / width
        return "lower" if place <= EDGE else "upper" if place >= 1 - EDGE else None

    def beyond(self, side: Side) -> "Box":
        """The decade of learning rates next to the box on one side."""
        low, high = self.low[0], self.high[0]
        return self._with_lr(low / 10, low) if side == "lower" else self._with_lr(high, high * 10)

    def joined(self, other: "Box") -> "Box":
        """This box with its learning rates widened to those of another."""
        return self._with_lr(min(self.low[0], other.low[0]), max(self.high[0], other.high[0]))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) of every hyper-parameter in its own values: lr, momentum, beta1."""
        return {
            axis.name: (low, high) if axis.kind == "lr" else (1 - high, 1 - low)
            for axis, low, high in zip(self.axes, self.low, self.high, strict=True)
        }

    def _with_lr(self, low: float, high: float) -> "Box":
        return replace(self, low=(low, *self.low[1:]), high=(high, *self.high[1:]))


def coordinates(axes: Sequence[Axis], setting: Hyper) -> tuple[float, ...]:
    """The learning rate and 1 - momentum of a setting, in the order of the axes."""
    values = dict(setting)
    return tuple(values[a.name] if a.kind == "lr" else 1 - values[a.name] for a in axes)


def near(axes: Sequence[Axis], one: Hyper, other: Hyper) -> bool:
    """Whether two settings lie within a factor 2 in lr and 3 in 1 - momentum of each other."""
    pairs = zip(axes, coordinates(axes, one), coordinates(axes, other), strict=True)
    return all(abs(math.log(a / b)) <= math.log(LOCAL_FACTOR[axis.kind]) for axis, a, b in pairs)


def box(method: Method, lr: tuple[float, float], steps: int) -> Box:
    """The box of a method: its probed learning rates; 1 - momentum from max(0.003, 1/T) to 0.5.

    A momentum that averages over more than T steps cannot be told from its neighbours within T steps; for T <= 2 only
    1 - momentum = 0.5 is left.
    """
    smallest = min(max(SMALLEST_COMPLEMENT, 1 / steps), LARGEST_COMPLEMENT)
    bounds = [lr if axis.kind == "lr" else (smallest, LARGEST_COMPLEMENT) for axis in method.axes]
    return Box(method.axes, tuple(low for low, _ in bounds), tuple(high for _, high in bounds))


def unit_points(count: int, dimension: int, study_seed: int, purpose: str, copy: int = 0) -> Floats:
    """The first `count` points of a scrambled Sobol sequence, (count, dimension) in [0, 1).

    One sequence per (study seed, purpose, copy, dimension), whatever the method; fewer points begin more of them.
    Source: Owen, J. Complexity 14 (1998).
    """
    if count == 0:
        return np.empty((0, dimension))
    sobol = qmc.Sobol(dimension, scramble=True, rng=key(study_seed, f"search-{purpose}", copy, dimension))
    points: Floats = sobol.random_base2(math.ceil(math.log2(count)))[:count]
    return points


def spread(where: Box, points: Floats) -> list[Hyper]:
    """The settings at points of the unit cube."""
    return [where.hyper(point) for point in points]


def local(where: Box, centres: Sequence[Hyper], points: Floats) -> list[Hyper]:
    """Settings around centres, each centre given an equal and connected part of the points (the best one any odd one).

    Connected, because every m-th point of a Sobol sequence lies in one corner of the cube.
    """
    parts: Iterable[Floats] = np.array_split(points, len(centres))
    return [hyper for centre, part in zip(centres, parts, strict=True) for hyper in spread(where.around(centre), part)]
