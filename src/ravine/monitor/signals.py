"""The cheap signals of a step, from the parameters before and after it and from the gradient: no extra pass.

Nothing here waits for the device: a step gives one small tensor of inner products, and `columns` turns many of them
into numbers at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ravine.monitor.sketch import COORDINATES, Sketch

PRODUCTS = ("gg", "uu", "ww", "mm", "uU", "UU", "gU", "ut", "moved", "live")
"""Inner products of a step, by gradient g, update u, last update U, weights w, average gradient m and top vector t."""


class Signals:
    """Follows the parameters of an optimizer from step to step.

    memory: the average of gradients m <- b m + (1 - b) g is kept with this b, so that its norm over that of g is the
    momentum gain of any optimizer, and of one without momentum the gain that it would have.
    """

    def __init__(self, parameters: Sequence[Tensor], coordinates: int = COORDINATES) -> None:
        self.parameters = list(parameters)
        self.sketch = Sketch(self.parameters, coordinates)
        row = self.sketch.row
        self._before, self._after, self._gradient = row(), row(), row()
        self._update, self._last, self._average = row(), row(), row()
        self._last_square: Tensor | None = None  # |U|^2, where the last step was watched
        self._top: Tensor | None = None
        self._none = torch.full((), float("nan"), device=self.sketch.device, dtype=self.sketch.dtype)
        self.averaged = 0  # steps in the average

    def fits(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are the parameters that it follows, where they were."""
        return self.sketch.fits(parameters)

    def in_place(self) -> bool:
        """Whether the first parameter is where it was: what `fits` asks, fast enough for each step."""
        return self.sketch.in_place()

    def rest(self) -> None:
        """Steps will pass unseen: forget the last one."""
        self._last_square = None
        self._average.zero_()
        self.averaged = 0

    def aim(self, direction: Tensor | None) -> None:
        """Follow the movement along this direction, a row of the sketch as `row_of` makes it."""
        self._top = direction

    def row_of(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Tensors shaped like the parameters -> a scaled row."""
        row = self.sketch.row()
        self.sketch.read_others(tensors, row)
        self.sketch.scale(row)
        return row

    def before(self) -> None:
        """Look at the parameters before a step."""
        self.sketch.read(self.parameters, self._before)

    def after(self, memory: float, maximize: bool = False) -> Tensor:
        """Look at a step: its inner products (PRODUCTS), on the device."""
        g, u, last, average = self._gradient, self._update, self._last, self._average
        self.sketch.read(self.parameters, self._after)
        self.sketch.read_others([p.grad for p in self.parameters], g)
        torch.sub(self._after, self._before, out=u)
        moved, live = torch.count_nonzero(u), torch.count_nonzero(g)
        self.sketch.scale(u)
        self.sketch.scale(g)
        self.sketch.scale(self._after)
        if maximize:
            g.neg_()
        square = torch.dot(g, g)
        average.lerp_(torch.where(square.isfinite(), g, 0.0), 1 - memory)  # what is not finite must not stay in it
        self.averaged += 1
        length = torch.dot(u, u)
        known = self._last_square is not None
        products = torch.stack(
            [
                square,
                length,
                torch.dot(self._after, self._after),
                torch.dot(average, average),
                torch.dot(u, last) if known else self._none,
                self._none if self._last_square is None else self._last_square,
                torch.dot(g, last) if known else self._none,
                self._none if self._top is None else torch.dot(u, self._top),
                moved.to(u.dtype),
                live.to(u.dtype),
            ]
        )
        self._update, self._last, self._last_square = last, u, length
        return products

    def layers(self) -> Tensor:
        """|g|, |u| and |w| of every tensor at the step just looked at, (3, tensors) in the order of `parameters`."""
        rows = (self._gradient, self._last, self._after)
        pieces = [torch.split(row, self.sketch.lengths) for row in rows]
        norms = torch.stack([torch.stack([torch.dot(piece, piece) for piece in row]) for row in pieces]).sqrt()
        order = torch.tensor(self.sketch.order, device=norms.device)
        return torch.zeros_like(norms).index_copy_(1, order, norms)


def columns(products: Tensor) -> dict[str, list[float | None]]:
    """Inner products of many steps (steps, PRODUCTS) -> columns of the table; None where there is no number."""
    p = dict(zip(PRODUCTS, products.detach().double().cpu().numpy().T, strict=True))
    with np.errstate(all="ignore"):
        found = {
            "gradient_norm": np.sqrt(p["gg"]),
            "update_norm": np.sqrt(p["uu"]),
            "weight_norm": np.sqrt(p["ww"]),
            "average_norm": np.sqrt(p["mm"]),
            "update_cosine": p["uU"] / np.sqrt(p["uu"] * p["UU"]),
            "velocity_gradient_cosine": -p["gU"] / np.sqrt(p["gg"] * p["UU"]),
            "top_movement": p["ut"],
            "unmoved": 1 - np.minimum(p["moved"] / p["live"], 1.0),
        }
    return {name: [float(v) if np.isfinite(v) else None for v in values] for name, values in found.items()}
