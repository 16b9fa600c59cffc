"""Rules that divide each element's step by a root of its squared gradients: AdaGrad, RMSProp, Adam and its kin."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ravine.rules.base import Hyper, Numbers, Rule, Tensors, floor, fraction, learning_rate, retained, room, shrink


def scaled(direction: Tensor, squares: Tensor, c: Tensors, ratio: Tensor) -> Tensor:
    """``direction / (sqrt(squares) + eps)``, in ``ratio``."""
    torch.sqrt(squares, out=ratio).add_(c["eps"])
    return torch.div(direction, ratio, out=ratio)


def _scaled_step(param: Tensor, direction: Tensor, squares: Tensor, c: Tensors, ratio: Tensor) -> None:
    """``param <- param - lr direction / (sqrt(squares) + eps)``; ``ratio`` is room for a temporary."""
    param.addcmul_(scaled(direction, squares, c, ratio), c["lr"], value=-1)


class AdaGrad(Rule):
    """AdaGrad: ``s <- s + g^2; w <- w - lr g / (sqrt(s) + eps)``, s = 0 at the start.

    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization" (JMLR 12,
    2011), the diagonal version. The same rule as ``torch.optim.Adagrad``, up to rounding, without lr_decay and
    initial_accumulator_value, both 0 in torch unless given; eps is outside the root. The defaults lr .01 and eps 1e-10
    are torch's. The first step has length lr in every element. There is no momentum, and so no form of it.
    """

    name = "adagrad"
    hyper: Mapping[str, Hyper] = {"lr": learning_rate(1e-2), "eps": floor(1e-10)}
    slots = ("sum",)
    rests = True
    rooms = ("ratio",)

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        squares = state["sum"].addcmul_(grad, grad)
        _scaled_step(param, grad, squares, c, room(state, "ratio", param))


class RMSProp(Rule):
    """RMSProp: ``s <- alpha s + (1 - alpha) g^2; w <- w - lr g / (sqrt(s) + eps)``, s = 0 at the start.

    Tieleman and Hinton 2012 (lecture 6e, alpha = .9). The same rule as ``torch.optim.RMSprop``, neither centred nor
    with momentum, up to rounding: eps outside the root, and no bias correction, so that the first step has length
    lr / sqrt(1 - alpha), ten times lr at the default alpha. The defaults, lr .01, alpha .99 and eps 1e-8, are torch's.
    There is no momentum, and so no form of it.
    """

    name = "rmsprop"
    hyper: Mapping[str, Hyper] = {
        "lr": learning_rate(1e-2),
        "alpha": fraction(0.99, "share of the mean squared gradient that a step keeps"),
        "eps": floor(1e-8),
    }
    slots = ("square_avg",)
    rooms = ("ratio",)

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, "gain": 1 - h["alpha"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        ratio = room(state, "ratio", param)
        squares = state["square_avg"].lerp_(torch.square(grad, out=ratio), c["gain"])
        _scaled_step(param, grad, squares, c, ratio)


class Adam(Rule):
    """Adam: ``m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) g^2; w <- w - lr m^ / (sqrt(s^) + eps)``, from m = s = 0.

    Kingma and Ba 2015, Algorithm 1. With bias correction m^ = m / (1 - b1^t) and s^ = s / (1 - b2^t) at step t, eps
    is added after it: the same rule as ``torch.optim.Adam``, up to rounding. Without, m^ = m and s^ = s.
    Powers are of the present b1 and b2, as in torch, also when a schedule changes them. m is in EMA form. The defaults,
    lr .001, beta1 .9, beta2 .999, eps 1e-8 and bias correction, are torch's. Torch's amsgrad is not here, nor is its
    decoupled_weight_decay: that is `AdamW`.
    """

    name = "adam"
    hyper: Mapping[str, Hyper] = {
        "lr": learning_rate(1e-3),
        "beta1": fraction(0.9, "share of the mean gradient that a step keeps"),
        "beta2": fraction(0.999, "share of the mean squared gradient that a step keeps"),
        "eps": floor(1e-8),
    }
    slots = ("exp_avg", "exp_avg_sq")
    counts = True
    rooms = ("ratio",)

    def __init__(self, *, bias_correction: bool = True) -> None:
        self.bias_correction = bias_correction

    def coefficients(self, h: Numbers) -> Numbers:
        c = {**h, "gain1": 1 - h["beta1"], "gain2": 1 - h["beta2"]}
        if self.bias_correction:
            # lr (m / k1) / (sqrt(s) / k2 + eps) = (lr k2 / k1) m / (sqrt(s) + eps k2): no pass over memory for it.
            k1 = 1 - h["beta1"] ** h["step"]
            k2 = (1 - h["beta2"] ** h["step"]) ** 0.5
            c |= {"lr": h["lr"] * k2 / k1, "eps": h["eps"] * k2}
        return c

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        ratio = room(state, "ratio", param)
        mean = state["exp_avg"].lerp_(grad, c["gain1"])
        squares = state["exp_avg_sq"].lerp_(torch.square(grad, out=ratio), c["gain2"])
        _scaled_step(param, mean, squares, c, ratio)


class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay, ``w <- (1 - lr weight_decay) w`` before the step of `Adam`.

    Loshchilov and Hutter 2019, Algorithm 2, with their schedule multiplier inside lr. The same rule as
    ``torch.optim.AdamW`` without amsgrad, up to rounding. Where there is no weight decay it is Adam. m is in EMA form.
    The defaults are torch's, those of `Adam`: lr .001, beta1 .9, beta2 .999, eps 1e-8. In `ravine.optim.AdamW` the
    weight decay is .01 unless given, as in torch; the rule by itself has none.
    """

    name = "adamw"
    decoupled = True

    def coefficients(self, h: Numbers) -> Numbers:
        return {**super().coefficients(h), **retained(h)}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        shrink(param, c)
        super().apply(param, grad, state, c)


class NAdam(Rule):
    """NAdam: Adam with Nesterov's momentum, whose momentum mu_t = b1 (1 - .96^(t momentum_decay) / 2) grows to b1.

    m and s as in `Adam`, p = the product of mu_1..mu_t:
    ``w <- w - lr (mu_(t+1) m / (1 - p mu_(t+1)) + (1 - mu_t) g / (1 - p)) / (sqrt(s^) + eps)``.

    Dozat 2016, Algorithm 2 (b1 also averages m, which is in EMA form). The same rule as ``torch.optim.NAdam``, up to
    rounding, and that torch keeps p in float32: mu_(t+1) is taken at the present b1, also when a schedule changes it.
    Torch's decoupled_weight_decay is not here. The defaults, lr .002, beta1 .9, beta2 .999, eps 1e-8 and
    momentum_decay .004, are torch's.
    """

    name = "nadam"
    hyper: Mapping[str, Hyper] = {
        **Adam.hyper,
        "lr": learning_rate(2e-3),
        "momentum_decay": Hyper(4e-3, 0.0, math.inf, meaning="rate at which the momentum grows to beta1"),
    }
    slots = ("exp_avg", "exp_avg_sq")
    scalars: Mapping[str, float] = {"mu_product": 1.0}
    counts = True
    rooms = ("ratio", "direction")

    def coefficients(self, h: Numbers) -> Numbers:
        b1, t, growth = h["beta1"], h["step"], h["momentum_decay"]
        now, coming = (b1 * (1 - 0.5 * 0.96 ** (steps * growth)) for steps in (t, t + 1))
        product = h["mu_product"] * now
        k2 = (1 - h["beta2"] ** t) ** 0.5
        return {
            **h,
            "lr": h["lr"] * k2,
            "eps": h["eps"] * k2,
            "gain1": 1 - b1,
            "gain2": 1 - h["beta2"],
            "fresh": (1 - now) / (1 - product),
            "past": coming / (1 - product * coming),
            "mu_product": product,
        }

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        ratio = room(state, "ratio", param)
        mean = state["exp_avg"].lerp_(grad, c["gain1"])
        squares = state["exp_avg_sq"].lerp_(torch.square(grad, out=ratio), c["gain2"])
        direction = torch.mul(grad, c["fresh"], out=room(state, "direction", param)).addcmul_(mean, c["past"])
        _scaled_step(param, direction, squares, c, ratio)


class AdaMomentum(Rule):
    """AdaMomentum: Adam whose second moment is that of the mean gradient, so that noise does not shorten the step.

    ``m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) m^2 + eps; w <- w - lr m^ / sqrt(s^)``, m = s = 0 at the start, m^
    and s^ corrected as in `Adam`.

    Wang et al. 2021 ("Rethinking Adam: a twofold exponential moving average approach", arXiv 2106.11514; later named
    AdaM3), Algorithm 1; m is in EMA form. eps is added inside s at every step and nowhere else, so s^ is at least
    eps / (1 - b2): 1e-5 at the defaults, which are the paper's: lr .001, beta1 .9, beta2 .999, eps 1e-8. Torch has no
    such rule. Weight decay is coupled here; the paper's choice is not known.
    """

    name = "adamomentum"
    hyper: Mapping[str, Hyper] = {
        **Adam.hyper,
        "eps": Hyper(1e-8, 0.0, math.inf, low_open=True, meaning="term added to the mean square at every step"),
    }
    slots = ("exp_avg", "exp_avg_sq")
    counts = True
    rooms = ("ratio",)

    def coefficients(self, h: Numbers) -> Numbers:
        k1, k2 = 1 - h["beta1"] ** h["step"], (1 - h["beta2"] ** h["step"]) ** 0.5
        return {**h, "gain1": 1 - h["beta1"], "gain2": 1 - h["beta2"], "lr": h["lr"] * k2 / k1}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        ratio = room(state, "ratio", param)
        mean = state["exp_avg"].lerp_(grad, c["gain1"])
        squares = state["exp_avg_sq"].lerp_(torch.square(mean, out=ratio), c["gain2"]).add_(c["eps"])
        torch.sqrt(squares, out=ratio)
        torch.div(mean, ratio, out=ratio)
        param.addcmul_(ratio, c["lr"], value=-1)
