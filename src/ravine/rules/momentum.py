"""Momentum: classical and Nesterov in heavy-ball form, and the EMA form.

The form says what a learning rate means. In heavy-ball form a constant gradient ends in steps of lr / (1 - momentum)
times the gradient (the effective learning rate), in EMA form of lr times the gradient. In both the learning rate
multiplies the whole velocity at the step, so a change of it acts at once.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ravine.rules.base import Hyper, Rule, Tensors, fraction, learning_rate

DECAY_OF_VELOCITY = fraction(0.9, "share of the velocity that a step keeps")


class Momentum(Rule):
    """Classical momentum in heavy-ball form: ``v <- mu v + g; w <- w - lr v``, v = 0 at the start.

    Polyak 1964; Sutskever et al. 2013, Eq. 1 and 2, whose velocity is -lr v while lr is constant. The same rule as
    ``torch.optim.SGD(lr, momentum=mu)``; torch rounds mu v before it adds g, here the sum is rounded once, so that
    a step differs by at most one rounding of v. On a quadratic of curvature c it is stable for lr c < 2 + 2 mu.
    """

    name = "momentum"
    hyper: ClassVar[dict[str, Hyper]] = {"lr": learning_rate(1e-3), "momentum": DECAY_OF_VELOCITY}
    slots = ("momentum_buffer",)

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity = state["momentum_buffer"]
        torch.addcmul(grad, velocity, c["momentum"], out=velocity)
        param.addcmul_(velocity, c["lr"], value=-1)


class Nesterov(Rule):
    """Nesterov's momentum in torch's look-ahead form: ``v <- mu v + g; w <- w - lr (g + mu v)``, v = 0 at the start.

    Nesterov 1983; Sutskever et al. 2013, Eq. 3 and 4. The stored w is the look-ahead point, at which the gradient is
    taken; with constant lr and mu the paper's theta is w + lr mu v. The same rule as ``torch.optim.SGD(lr,
    momentum=mu, nesterov=True)``, to one rounding of v a step. On a quadratic of curvature c it is stable for
    lr c < (2 + 2 mu) / (1 + 2 mu): less than classical momentum.
    """

    name = "nesterov"
    hyper: ClassVar[dict[str, Hyper]] = Momentum.hyper
    slots = ("momentum_buffer",)

    def coefficients(self, h: Tensors) -> Tensors:
        return {**h, "look_ahead": h["lr"] * h["momentum"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity = state["momentum_buffer"]
        torch.addcmul(grad, velocity, c["momentum"], out=velocity)
        # lr (g + mu v) in two terms: as fast as one, and without a temporary.
        param.addcmul_(grad, c["lr"], value=-1)
        param.addcmul_(velocity, c["look_ahead"], value=-1)


class EMAMomentum(Rule):
    """Classical momentum in EMA form: ``m <- mu m + (1 - mu) g; w <- w - lr m``, m = 0 at the start.

    While mu is constant, the same trajectory as heavy-ball form with lr (1 - mu), whatever lr does. This is *not*
    ``torch.optim.SGD(dampening=mu)``, which takes the whole first gradient. The default lr is the effective learning
    rate of the default of `Momentum`.
    """

    name = "ema-momentum"
    hyper: ClassVar[dict[str, Hyper]] = {"lr": learning_rate(1e-2), "momentum": DECAY_OF_VELOCITY}
    slots = ("momentum_buffer",)

    def coefficients(self, h: Tensors) -> Tensors:
        return {**h, "gain": 1 - h["momentum"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        average = state["momentum_buffer"].lerp_(grad, c["gain"])
        param.addcmul_(average, c["lr"], value=-1)
