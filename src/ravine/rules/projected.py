"""Rules for weights whose scale does not matter: the update loses its part along the weights (SGDP, AdamP).

Before a normalization the gradient of a weight is orthogonal to it, but a velocity is not, and what it has along the
weight only makes the weight longer, and so the effective step shorter.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ravine.rules.adaptive import Adam
from ravine.rules.base import Hyper, Numbers, Rule, Tensors
from ravine.rules.momentum import HEAVY_BALL

DELTA = Hyper(
    0.1, 0.0, math.inf, meaning="cosine, times the root of a row's length, below which weights count as free of scale"
)
RATIO = Hyper(0.1, 0.0, math.inf, meaning="factor of the weight decay of weights that count as free of scale")


def _along(param: Tensor, grad: Tensor, move: Tensor, dims: tuple[int, ...], c: Tensors) -> tuple[Tensor, Tensor]:
    """``move`` without its part along each row of weights, and whether each row is orthogonal to its gradient.

    A row is what lies along ``dims``. No reshaping: gradients come in any layout.
    """
    sizes = torch.linalg.vector_norm(param, dim=dims, keepdim=True)
    slopes = torch.linalg.vector_norm(grad, dim=dims, keepdim=True)
    eps, length = c["eps"], max(param.numel() // max(sizes.numel(), 1), 1)
    cosines = (param * grad).sum(dims, keepdim=True).abs() / (torch.maximum(sizes, eps) * torch.maximum(slopes, eps))
    units = param / (sizes + eps)
    return move - units * (units * move).sum(dims, keepdim=True), cosines < c["delta"] / math.sqrt(length)


def _projected(param: Tensor, grad: Tensor, move: Tensor, c: Tensors) -> tuple[Tensor, Tensor | None]:
    """``move`` after the projection of the authors, and whether there was one, per run.

    First each output's weights are a row, then the whole tensor is one: the first view in which the gradient is
    orthogonal to all rows is projected. Tensors of one dimension or none are left alone: None.
    """
    first = 1 if c["lr"].dim() else 0  # after the dimension of the runs
    whole = tuple(range(first, param.dim()))
    if len(whole) < 2:
        return move, None
    by_row, orthogonal = _along(param, grad, move, whole[1:], c)
    rows = orthogonal.all(whole[0], keepdim=True)
    by_layer, layer = _along(param, grad, move, whole, c)
    return torch.where(rows, by_row, torch.where(layer, by_layer, move)), rows | layer


def _decay(param: Tensor, projected: Tensor | None, c: Tensors) -> None:
    """Decoupled weight decay, reduced where the update was projected."""
    if "decay" in c:
        share = c["decay"] if projected is None else c["decay"] * torch.where(projected, c["wd_ratio"], 1)
        param.mul_(1 - share)


class SGDP(Rule):
    """SGDP: heavy-ball momentum whose step is projected: ``v <- mu v + g; w <- w - lr P(v)``, v = 0 at the start.

    Heo et al. 2021 ("AdamP: slowing down the slowdown for momentum optimizers on scale-invariant weights"). P looks,
    for a tensor of two dimensions or more, first at its rows (the weights of each output), then at all of it as one
    row; where every |cos(g, row)| is less than delta / sqrt(length of the row), it takes away the part of the step
    along each row (cosines of the *gradient*, projection of the *step*); else it does nothing. With ``nesterov`` the
    step is g + mu v. Weight decay is decoupled, as in the authors' code: w <- (1 - lr weight_decay r / (1 - mu)) w
    before the step, r = wd_ratio where there was a projection and else 1.

    The authors' code has momentum 0 as its default, which makes it pointless: here it is .9. They recommend .9 with
    nesterov, lr .1 and weight decay 1e-5. Their code also has a dampening, which is not here.
    """

    name = "sgdp"
    hyper: Mapping[str, Hyper] = {
        **HEAVY_BALL,
        "delta": DELTA,
        "wd_ratio": RATIO,
        "eps": Hyper(1e-8, 0.0, math.inf, meaning="term added to the norms of the weights"),
    }
    slots = ("momentum_buffer",)
    elementwise = False
    decoupled = True

    def __init__(self, nesterov: bool = False) -> None:
        self.nesterov = nesterov

    def coefficients(self, h: Numbers) -> Numbers:
        decay = {"decay": h["lr"] * h["weight_decay"] / (1 - h["momentum"])} if "weight_decay" in h else {}
        return {**h, **decay}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity = state["momentum_buffer"].mul_(c["momentum"]).add_(grad)
        step = torch.addcmul(grad, velocity, c["momentum"]) if self.nesterov else velocity
        step, projected = _projected(param, grad, step, c)
        _decay(param, projected, c)
        param.addcmul_(step, c["lr"], value=-1)


class AdamP(Rule):
    """AdamP: Adam whose step is projected: ``w <- w - lr P(m^ / (sqrt(s^) + eps))``, P as in `SGDP`.

    Heo et al. 2021, Algorithm 2; m, s, bias correction and eps as in `Adam`. With ``nesterov``, b1 m + (1 - b1) g takes
    the place of m. Weight decay is decoupled: w <- (1 - lr weight_decay r) w before the step, r = wd_ratio where there
    was a projection and else 1. Defaults as in the authors' code.
    """

    name = "adamp"
    hyper: Mapping[str, Hyper] = {**Adam.hyper, "delta": DELTA, "wd_ratio": RATIO}
    slots = ("exp_avg", "exp_avg_sq")
    counts = True
    elementwise = False
    decoupled = True

    def __init__(self, nesterov: bool = False) -> None:
        self.nesterov = nesterov

    def coefficients(self, h: Numbers) -> Numbers:
        decay = {"decay": h["lr"] * h["weight_decay"]} if "weight_decay" in h else {}
        k1, k2 = 1 - h["beta1"] ** h["step"], (1 - h["beta2"] ** h["step"]) ** 0.5
        return {**h, **decay, "gain1": 1 - h["beta1"], "gain2": 1 - h["beta2"], "unbias1": 1 / k1, "unbias2": 1 / k2}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        mean = state["exp_avg"].lerp_(grad, c["gain1"])
        squares = state["exp_avg_sq"].lerp_(grad.square(), c["gain2"])
        ahead = torch.lerp(mean, grad, c["gain1"]) if self.nesterov else mean
        step = ahead * c["unbias1"] / (squares.sqrt().mul_(c["unbias2"]).add_(c["eps"]))
        step, projected = _projected(param, grad, step, c)
        _decay(param, projected, c)
        param.addcmul_(step, c["lr"], value=-1)
