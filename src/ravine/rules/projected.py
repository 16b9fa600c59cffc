"""Rules for weights whose scale does not matter: the update loses its part along the weights (SGDP, AdamP).

Before a normalization the gradient of a weight is orthogonal to it, but a velocity is not, and what it has along the
weight only makes the weight longer, and so the effective step shorter.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ravine.rules.adaptive import Adam, scaled
from ravine.rules.base import Hyper, Numbers, Rule, Tensors, kept, room
from ravine.rules.momentum import HEAVY_BALL

DELTA = Hyper(
    0.1, 0.0, math.inf, meaning="cosine, times the root of a row's length, below which weights count as free of scale"
)
ADAM = Adam()
RATIO = Hyper(0.1, 0.0, math.inf, meaning="factor of the weight decay of weights that count as free of scale")


def _rows(tensor: Tensor, runs: int = 0) -> Tensor:
    """The weights of each output, (..., rows, length)."""
    return tensor.flatten(runs + 1)


def cosines(sizes: Tensor, slopes: Tensor, dots: Tensor, c: Tensors) -> Tensor:
    """|cos(w, g)| = |(w, g)| / (max(|w|, eps) max(|g|, eps)), from the norms of w and g and their product."""
    return dots.abs() / (torch.maximum(sizes, c["floor"]) * torch.maximum(slopes, c["floor"]))


def along(dots: Tensor | float, sizes: Tensor, c: Tensors) -> Tensor:
    """(w, step) / (|w| + eps)^2: the part of the step along w is so many times w."""
    return dots / (sizes + c["floor"]).square()


def row_dots(left: Tensor, right: Tensor, product: Tensor, runs: int = 0) -> Tensor:
    """The product of each row with that of the other; what `torch.linalg.vecdot` would allocate is ``product``."""
    left, right, product = (_rows(tensor, runs) for tensor in (left, right, product))
    return torch.mul(left, right, out=product).sum(-1)


def row_numbers(
    param: Tensor, grad: Tensor, product: Tensor, state: Tensors, runs: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Three numbers of each output's weights w: |w|, |g| and (w, g), each of shape (..., rows).

    ``product`` is room for a temporary; nothing else of the size of the tensor is made.
    """
    dots = kept(state, "with_grad", row_dots(param, grad, product, runs))
    return _norms(_rows(param, runs), state, "sizes"), _norms(_rows(grad, runs), state, "slopes"), dots


def _norms(rows: Tensor, state: Tensors, name: str, keepdim: bool = False) -> Tensor:
    """The norm of each row; what is kept is its square, the sum, which a compiler can write where it is to be."""
    if name in state:
        return kept(state, name, rows.square().sum(-1, keepdim=keepdim)).sqrt()
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=keepdim)
    return norms


def _row_factors(param: Tensor, grad: Tensor, move: Tensor, c: Tensors, state: Tensors, runs: int) -> Tensor:
    """What each output's weights are multiplied by: 1 - decay + lr excess.

    excess w, with excess = (w, move) / (|w| + eps)^2, is the part of the step along the weights, which goes in the
    first view in which the gradient is orthogonal to all rows: |cos(w, g)| < delta / sqrt(length of a row). First each
    output's weights are a row, then the whole tensor is one. The decay is reduced where there was a projection.
    """
    product = room(state, "product", param)
    sizes, slopes, with_grad = row_numbers(param, grad, product, state, runs)
    with_move = kept(state, "with_move", row_dots(param, move, product, runs))
    h = {name: value.reshape(-1, 1) if runs else value for name, value in c.items()}  # against (runs, rows)
    length = param.shape[runs:].numel()
    small = h["delta"] / math.sqrt(max(length // max(sizes.shape[-1], 1), 1))
    by_row = (cosines(sizes, slopes, with_grad, h) < small).all(-1, keepdim=True)
    size, slope = _norms(sizes, state, "size", keepdim=True), _norms(slopes, state, "slope", keepdim=True)
    all_with_grad = kept(state, "all_with_grad", with_grad.sum(-1, keepdim=True))
    all_with_move = kept(state, "all_with_move", with_move.sum(-1, keepdim=True))
    by_layer = cosines(size, slope, all_with_grad, h) < h["delta"] / math.sqrt(max(length, 1))
    of_layer = kept(state, "of_layer", torch.where(by_layer, along(all_with_move, size, h), 0))
    excess = torch.where(by_row, along(with_move, sizes, h), of_layer)
    decay = h["decay"] * torch.where(by_row | by_layer, h["wd_ratio"], 1) if "decay" in h else 0
    factor = kept(state, "factors", 1 - decay + h["lr"] * excess)
    return factor.view(*factor.shape, *[1] * (param.dim() - factor.dim()))


def step_projected(param: Tensor, grad: Tensor, move: Tensor, c: Tensors, state: Tensors) -> None:
    """``w <- (1 - decay) w - lr (move - excess w)``; tensors of one dimension or none are not projected."""
    runs = c["lr"].dim() and 1
    if param.dim() > runs + 1:
        param.mul_(_row_factors(param, grad, move, c, state, runs))
    elif "decay" in c:
        param.mul_(1 - c["decay"])
    param.addcmul_(move, c["lr"], value=-1)


ROW_ROOMS = ("sizes", "slopes", "with_grad", "with_move", "factors")
TENSOR_ROOMS = ("size", "slope", "all_with_grad", "all_with_move", "of_layer")


class SGDP(Rule):
    """SGDP: heavy-ball momentum whose step is projected: ``v <- mu v + g; w <- w - lr P(v)``, v = 0 at the start.

    Heo et al. 2021 ("AdamP: slowing down the slowdown for momentum optimizers on scale-invariant weights", arXiv
    2006.08217), Algorithm 1. P looks, for a tensor of two dimensions or more, first at its rows (the weights of each
    output), then at all of it as one row; where every |cos(g, row)| is less than delta / sqrt(length of the row), it
    takes away the part of the step along each row (cosines of the *gradient*, projection of the *step*); else it does
    nothing. With ``nesterov`` the step is g + mu v. Weight decay is decoupled, as in the authors' code:
    w <- (1 - lr weight_decay r / (1 - mu)) w before the step, r = wd_ratio where there was a projection and else 1.

    The authors' code (clovaai/AdamP) has momentum 0 as its default, which makes it pointless: here it is .9. It has no
    default lr: .001 is ours. delta .1, wd_ratio .1, eps 1e-8 and no nesterov are theirs. They recommend momentum .9
    with nesterov, lr .1 and weight decay 1e-5. Without nesterov their code projects the momentum buffer itself, in
    place, so that the next steps build on the projection; here, as in Algorithm 1, the buffer stays as it is. With
    nesterov the steps are theirs, up to rounding. Their code also has a dampening, which is not here.
    """

    name = "sgdp"
    hyper: Mapping[str, Hyper] = {
        **HEAVY_BALL,
        "delta": DELTA,
        "wd_ratio": RATIO,
        "eps": Hyper(1e-8, 0.0, math.inf, meaning="term added to the norms of the weights"),
    }
    slots = ("momentum_buffer",)
    rooms = ("product", "ahead")
    row_rooms, tensor_rooms = ROW_ROOMS, TENSOR_ROOMS
    elementwise = False
    decoupled = True

    def __init__(self, nesterov: bool = False) -> None:
        self.nesterov = nesterov

    def coefficients(self, h: Numbers) -> Numbers:
        decay = {"decay": h["lr"] * h["weight_decay"] / (1 - h["momentum"])} if "weight_decay" in h else {}
        return {**h, **decay, "floor": h["eps"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity, ahead = state["momentum_buffer"], room(state, "ahead", param)
        torch.addcmul(grad, velocity, c["momentum"], out=velocity)
        move = torch.addcmul(grad, velocity, c["momentum"], out=ahead) if self.nesterov else velocity
        step_projected(param, grad, move, c, state)


class AdamP(Rule):
    """AdamP: Adam whose step is projected: ``w <- w - lr P(m^ / (sqrt(s^) + eps))``, P as in `SGDP`.

    Heo et al. 2021, Algorithm 2; m, in EMA form, s, bias correction and eps as in `Adam`. With ``nesterov``,
    b1 m + (1 - b1) g takes the place of m. Weight decay is decoupled: w <- (1 - lr weight_decay r) w before the step,
    r = wd_ratio where there was a projection and else 1; torch's AdamW has neither P nor r. The steps are those of the
    authors' code (clovaai/AdamP), up to rounding, and so are the defaults: lr .001, beta1 .9, beta2 .999, eps 1e-8,
    delta .1, wd_ratio .1, no nesterov.
    """

    name = "adamp"
    hyper: Mapping[str, Hyper] = {**Adam.hyper, "delta": DELTA, "wd_ratio": RATIO}
    slots = ("exp_avg", "exp_avg_sq")
    counts = True
    rooms = ("ratio", "product", "ahead")
    row_rooms, tensor_rooms = ROW_ROOMS, TENSOR_ROOMS
    elementwise = False
    decoupled = True

    def __init__(self, nesterov: bool = False) -> None:
        self.nesterov = nesterov

    def coefficients(self, h: Numbers) -> Numbers:
        decay = {"decay": h["lr"] * h["weight_decay"]} if "weight_decay" in h else {}
        return {**ADAM.coefficients(h), **decay, "floor": h["eps"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        ratio, ahead = room(state, "ratio", param), room(state, "ahead", param)
        mean = state["exp_avg"].lerp_(grad, c["gain1"])
        squares = state["exp_avg_sq"].lerp_(torch.square(grad, out=ratio), c["gain2"])
        direction = torch.lerp(mean, grad, c["gain1"], out=ahead) if self.nesterov else mean
        step_projected(param, grad, scaled(direction, squares, c, ratio), c, state)
