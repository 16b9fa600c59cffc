"""Rules that divide each element's step by a root of its squared gradients: AdaGrad, RMSProp, Adam."""

from typing import ClassVar

import torch
from torch import Tensor

from ravine.rules.base import Hyper, Rule, Tensors, floor, fraction, learning_rate


def _scaled_step(param: Tensor, direction: Tensor, squares: Tensor, lr: Tensor, eps: Tensor) -> None:
    """``param <- param - lr direction / (sqrt(squares) + eps)``, with one temporary."""
    ratio = squares.sqrt().add_(eps)
    torch.div(direction, ratio, out=ratio)
    param.addcmul_(ratio, lr, value=-1)


class AdaGrad(Rule):
    """AdaGrad: ``s <- s + g^2; w <- w - lr g / (sqrt(s) + eps)``, s = 0 at the start.

    Duchi, Hazan and Singer 2011, the diagonal version. The same rule as ``torch.optim.Adagrad`` without lr_decay, up
    to rounding; eps is outside the root. The first step has length lr in every element.
    """

    name = "adagrad"
    hyper: ClassVar[dict[str, Hyper]] = {"lr": learning_rate(1e-2), "eps": floor(1e-10)}
    slots = ("sum",)

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        squares = state["sum"].addcmul_(grad, grad)
        _scaled_step(param, grad, squares, c["lr"], c["eps"])


class RMSProp(Rule):
    """RMSProp: ``s <- alpha s + (1 - alpha) g^2; w <- w - lr g / (sqrt(s) + eps)``, s = 0 at the start.

    Tieleman and Hinton 2012 (lecture 6e, alpha = .9). The same rule as ``torch.optim.RMSprop``, neither centred nor
    with momentum, up to rounding: eps outside the root, and no bias correction, so that the first step has length
    lr / sqrt(1 - alpha), ten times lr at the default alpha.
    """

    name = "rmsprop"
    hyper: ClassVar[dict[str, Hyper]] = {
        "lr": learning_rate(1e-2),
        "alpha": fraction(0.99, "share of the mean squared gradient that a step keeps"),
        "eps": floor(1e-8),
    }
    slots = ("square_avg",)

    def coefficients(self, h: Tensors) -> Tensors:
        return {**h, "gain": 1 - h["alpha"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        squares = state["square_avg"].lerp_(grad.square(), c["gain"])
        _scaled_step(param, grad, squares, c["lr"], c["eps"])


class Adam(Rule):
    """Adam: ``m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) g^2; w <- w - lr m^ / (sqrt(s^) + eps)``, from m = s = 0.

    Kingma and Ba 2015, Algorithm 1. With bias correction m^ = m / (1 - b1^t) and s^ = s / (1 - b2^t) at step t, eps
    is added after it: the same rule as ``torch.optim.Adam``, up to rounding. Without, m^ = m and s^ = s.
    Powers are of the present b1 and b2, as in torch, also when a schedule changes them.
    """

    name = "adam"
    hyper: ClassVar[dict[str, Hyper]] = {
        "lr": learning_rate(1e-3),
        "beta1": fraction(0.9, "share of the mean gradient that a step keeps"),
        "beta2": fraction(0.999, "share of the mean squared gradient that a step keeps"),
        "eps": floor(1e-8),
    }
    slots = ("exp_avg", "exp_avg_sq")
    counts = True

    def __init__(self, *, bias_correction: bool = True) -> None:
        self.bias_correction = bias_correction

    def coefficients(self, h: Tensors) -> Tensors:
        c = {**h, "gain1": 1 - h["beta1"], "gain2": 1 - h["beta2"]}
        if self.bias_correction:
            # lr (m / k1) / (sqrt(s) / k2 + eps) = (lr k2 / k1) m / (sqrt(s) + eps k2): no pass over memory for it.
            k1 = 1 - h["beta1"] ** h["step"]
            k2 = (1 - h["beta2"] ** h["step"]).sqrt()
            c |= {"lr": h["lr"] * k2 / k1, "eps": h["eps"] * k2}
        return c

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        mean = state["exp_avg"].lerp_(grad, c["gain1"])
        squares = state["exp_avg_sq"].lerp_(grad.square(), c["gain2"])
        _scaled_step(param, mean, squares, c["lr"], c["eps"])
