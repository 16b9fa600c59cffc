"""The built-in problems `curves` and `curves-small`, on a surrogate of the CURVES data, which nobody publishes now."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ravine.problems.autoencoders import autoencoder
from ravine.problems.problem import Problem

SIDE = 28  # pixels
MARGIN = 5.5  # pixels between the edge of the picture and the unit square in which the points lie
PEN = 0.9  # pixels: standard deviation of the ink across the line
INK = 0.8  # intensity on the line
PIECES = 24  # straight ones, between two of the three points
LEVELS = 2**16  # of intensity, so that rounding in the last place, which differs among machines, changes no picture
_KEY = 0
_AT_ONCE = 8  # pictures: their distances fit into the cache


def curves() -> Problem:
    """Surrogate CURVES: drawn splines of 28x28 pixels, to a 6-d code and back by a logistic net of 12 layers.

    The net of the paper, 784-400-200-100-50-25-6 and its mirror image, on 20,000 pictures to train on, 10,000 to
    validate and 10,000 to test, with the paper's 750,000 updates. See `draw_curves` for the pictures and why they are a
    surrogate, `autoencoder` for net, loss and reported error.
    """
    return curves_autoencoder()


def curves_small() -> Problem:
    """Surrogate CURVES, small: 784-100-50-25-6 and back on 2,000 pictures; trains in a minute.

    The pictures are the first of those of `curves`, so errors are on the same scale.
    """
    return small_curves_autoencoder()


def curves_autoencoder(scale: float = 1.0) -> Problem:
    """`curves` with another scale of its sparse initialization."""
    rows = (20_000, 10_000, 10_000)
    return _curves("curves", (784, 400, 200, 100, 50, 25, 6), rows, steps=750_000, scale=scale)


def small_curves_autoencoder(scale: float = 1.0) -> Problem:
    """`curves-small` with another scale of its sparse initialization."""
    return _curves("curves-small", (784, 100, 50, 25, 6), (2_000, 1_000, 1_000), steps=5_000, scale=scale)


def _curves(name: str, widths: tuple[int, ...], rows: tuple[int, int, int], *, steps: int, scale: float) -> Problem:
    train, validation, test = (_pictures(count, _KEY + part) for part, count in enumerate(rows))
    return autoencoder(name, widths, train, test, output="logistic", steps=steps, validation=validation, scale=scale)


@cache
def _pictures(count: int, seed: int) -> Tensor:
    """Pictures drawn once a process: the claims train several problems on the same ones."""
    return draw_curves(count, seed)


def draw_curves(count: int, seed: int) -> Tensor:
    """Surrogate CURVES pictures (count, 784), float32 in [0, .8]; the first of a seed are the same for every count.

    Three points with x sorted from U(0, 1) and y from U(0, 1), a natural cubic spline y(x) from the first to the last,
    drawn on 28x28 pixels with a margin of 5.5: the intensity is .8 exp(-d^2 / (2 * .9^2)), d the distance in pixels
    from the pixel's centre to the curve.

    A *surrogate*: the file of the papers (three points, a spline, 28x28 pixels; Hinton and Salakhutdinov 2006) is not
    to be had, and pen, margins and the law of y were never published. Here they are chosen so that four numbers known
    of the real data nearly come out: the squared error of the mean picture (16.85 to 16.9; here 17.2), what 18
    principal components leave (5.90; here 6.2), the entropy of the pixels (54.2 nats; here 54.2) and the cross-entropy
    of the mean picture (124.4 to 125; here 127.9). Errors on it compare to published ones no more closely than that.
    """
    points = torch.rand(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x, y = points[:, :3].sort(dim=1).values, points[:, 3:]
    knots = torch.stack(natural_spline(x, y), dim=2)  # (count, knots, 2), in the unit square
    place = MARGIN + (SIDE - 2 * MARGIN) * knots
    distances = torch.cat([_squared_distances(some) for some in torch.split(place, _AT_ONCE)])
    ink = INK * torch.exp(distances / (-2 * PEN**2))
    return ((ink * LEVELS).round() / LEVELS).float()


def natural_spline(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Points (count, 2 PIECES + 1) along the natural cubic spline through three points, x ascending.

    With h the distances in x, the second derivative is 0 at both ends and m = 3 (dy_2/h_2 - dy_1/h_1) / (h_1 + h_2)
    between; on an interval, at u in [0, 1] from its outer end, y is linear plus (u^3 - u) h^2 m / 6.
    """
    h, rise = x.diff(dim=1), y.diff(dim=1)
    slope = rise / h
    bend = 3 * (slope[:, 1] - slope[:, 0]) / h.sum(1)
    u = torch.linspace(0, 1, PIECES + 1, dtype=x.dtype)
    sag = (u**3 - u) * (h**2 * bend[:, None] / 6).unsqueeze(2)  # (count, 2, PIECES + 1), from the outer ends
    first = y[:, :1] + rise[:, :1] * u + sag[:, 0]
    second = y[:, 1:2] + rise[:, 1:] * u + sag[:, 1].flip(1)
    along = torch.cat([x[:, :1] + h[:, :1] * u, (x[:, 1:2] + h[:, 1:] * u)[:, 1:]], dim=1)
    return along, torch.cat([first, second[:, 1:]], dim=1)


def _squared_distances(knots: Tensor) -> Tensor:
    """(pictures, 784): from each pixel's centre to the nearest point of the line through knots (pictures, n, 2)."""
    centres = torch.arange(SIDE, dtype=knots.dtype) + 0.5
    start, along = knots[:, :-1], knots.diff(dim=1)
    length = along.square().sum(2).clamp_min(1e-300)
    x, y = (centres - start[..., k : k + 1] for k in (0, 1))  # from the start of each piece, (pictures, pieces, 28)
    of_x, of_y = (offset * along[..., k : k + 1] / length.unsqueeze(2) for k, offset in enumerate((x, y)))
    place = of_y.unsqueeze(3) + of_x.unsqueeze(2)  # s, of the nearest point of the whole straight line, in [0, 1] on it
    nearest = place.clamp(0, 1)
    # |offset|^2 - 2 s t |piece|^2 + t^2 |piece|^2, t the nearest place
    squared = nearest.sub(place, alpha=2).mul_(nearest).mul_(length[..., None, None])
    squared += x.square().unsqueeze(2)
    squared += y.square().unsqueeze(3)
    return squared.amin(1).flatten(1)
