"""Momentum: classical and Nesterov, each in the three forms of the literature.

The form says what a learning rate means. In heavy-ball form a constant gradient ends in steps of lr / (1 - momentum)
times the gradient (the effective learning rate), in EMA form of lr times the gradient. In both the learning rate
multiplies the whole velocity at the step, so a change of it acts at once. Sutskever's form has the learning rate of
heavy-ball form inside the velocity: what a step has put there keeps the learning rate of that step.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ravine.rules.base import Hyper, Numbers, Rule, Tensors, fraction, learning_rate

DECAY_OF_VELOCITY = fraction(0.9, "share of the velocity that a step keeps")
HEAVY_BALL = {"lr": learning_rate(1e-3), "momentum": DECAY_OF_VELOCITY}
EMA = {"lr": learning_rate(1e-2), "momentum": DECAY_OF_VELOCITY}
"""Its default learning rate gives the steps of heavy-ball form at its default."""


class Momentum(Rule):
    """Classical momentum in heavy-ball form: ``v <- mu v + g; w <- w - lr v``, v = 0 at the start.

    Polyak 1964; Sutskever et al. 2013, Eq. 1 and 2, whose velocity is -lr v while lr is constant. The same rule as
    ``torch.optim.SGD(lr, momentum=mu)``; torch rounds mu v before it adds g, here the sum is rounded once, so that
    a step differs by at most one rounding of v. On a quadratic of curvature c it is stable for lr c < 2 + 2 mu.
    """

    name = "momentum"
    hyper = HEAVY_BALL
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
    lr c < (2 + 2 mu) / (1 + 2 mu): less than classical momentum. While lr or mu changes it is not the paper's method:
    that is `SutskeverNesterov`.
    """

    name = "nesterov"
    hyper = HEAVY_BALL
    slots = ("momentum_buffer",)

    def coefficients(self, h: Numbers) -> Numbers:
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
    ``torch.optim.SGD(dampening=mu)``, which takes the whole first gradient. Stable for lr c < 2 (1 + mu) / (1 - mu).
    """

    name = "ema-momentum"
    hyper = EMA
    slots = ("momentum_buffer",)

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, "gain": 1 - h["momentum"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        average = state["momentum_buffer"].lerp_(grad, c["gain"])
        param.addcmul_(average, c["lr"], value=-1)


class EMANesterov(Rule):
    """Nesterov's momentum in EMA form: ``m <- mu m + (1 - mu) g; w <- w - lr ((1 - mu) g + mu m)``, m = 0 at the start.

    While mu is constant, the same trajectory as `Nesterov` with lr (1 - mu), whatever lr does; and quasi-hyperbolic
    momentum with nu = mu (Ma and Yarats 2019). The stored w is the look-ahead point.
    """

    name = "ema-nesterov"
    hyper = EMA
    slots = ("momentum_buffer",)

    def coefficients(self, h: Numbers) -> Numbers:
        gain = 1 - h["momentum"]
        return {**h, "gain": gain, "fresh": h["lr"] * gain, "look_ahead": h["lr"] * h["momentum"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        average = state["momentum_buffer"].lerp_(grad, c["gain"])
        param.addcmul_(grad, c["fresh"], value=-1)
        param.addcmul_(average, c["look_ahead"], value=-1)


class SutskeverMomentum(Rule):
    """Classical momentum as Sutskever et al. 2013 write it: ``v <- mu v - lr g; w <- w + v``, v = 0 at the start.

    Eq. 1 and 2. While lr is constant, the same trajectory as `Momentum`, whatever mu does, with v = -lr times its
    velocity. When lr changes, the velocity keeps what it has: torch's form rescales it at once.
    """

    name = "sutskever-momentum"
    hyper = HEAVY_BALL
    slots = ("momentum_buffer",)

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity = state["momentum_buffer"].mul_(c["momentum"]).addcmul_(grad, c["lr"], value=-1)
        param.add_(velocity)


class SutskeverNesterov(Rule):
    """Nesterov's momentum as Sutskever et al. 2013 write it, seen from its look-ahead point phi = theta + mu v.

    The paper (Eq. 3 and 4): ``v' = mu v - lr grad f(theta + mu v); theta' = theta + v'``. The stored w is phi, at
    which the gradient is taken: ``v' = mu v - lr g; w <- w + mu' v' - lr g``, mu' being the momentum of the *next*
    step; v = 0 at the start, and theta = w - mu' v' after a step. These are the paper's iterates for any schedule of lr
    and mu. While both are constant it is `Nesterov`. Where the next momentum is not known (no schedule of ours gives
    it), mu' = mu.
    """

    name = "sutskever-nesterov"
    hyper = HEAVY_BALL
    slots = ("momentum_buffer",)
    foresees = ("momentum",)

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity = state["momentum_buffer"].mul_(c["momentum"]).addcmul_(grad, c["lr"], value=-1)
        param.addcmul_(velocity, c["next_momentum"]).addcmul_(grad, c["lr"], value=-1)


class EarlyMomentum(Rule):
    """SGDEM, momentum for the first steps only: ``v <- mu_t v - lr g; w <- w + v``, mu_t = mu for t <= until, then 0.

    Ramezani-Kebrya et al., "On the generalization of stochastic gradient descent with momentum" (arXiv 1809.04564).
    They write v as w_t - w_(t-1), so the form is Sutskever's; t counts the steps of a parameter, from 1. until = 0 is
    gradient descent, until = the number of steps is `SutskeverMomentum`. The default of until is ours.
    """

    name = "early-momentum"
    hyper: Mapping[str, Hyper] = {
        **HEAVY_BALL,
        "until": Hyper(200.0, 0.0, math.inf, meaning="number of steps that have momentum"),
    }
    slots = ("momentum_buffer",)
    counts = True

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, "momentum": h["momentum"] * (h["step"] <= h["until"])}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity = state["momentum_buffer"].mul_(c["momentum"]).addcmul_(grad, c["lr"], value=-1)
        param.add_(velocity)
