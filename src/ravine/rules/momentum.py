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
    a step differs by at most one rounding of v. Torch's dampening is not here: `EMAMomentum` is what it is wanted for.
    The default lr .001 is torch's, momentum .9 is ours: torch's is 0. On a quadratic of curvature c it is stable for
    lr c < 2 + 2 mu.
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

    Nesterov 1983; Sutskever et al. 2013, Eq. 3 and 4; here in heavy-ball form. The stored w is the look-ahead point, at
    which the gradient is taken; with constant lr and mu the paper's theta is w + lr mu v. The same rule as
    ``torch.optim.SGD(lr, momentum=mu, nesterov=True)``, to one rounding of v a step; there is no dampening, which torch
    asks to be 0 here. The default lr .001 is torch's, momentum .9 is ours: torch's is 0. On a quadratic of curvature c
    it is stable for lr c < (2 + 2 mu) / (1 + 2 mu): less than classical momentum. While lr or mu changes it is not the
    paper's method: that is `SutskeverNesterov`.
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

    Wang et al. 2024 ("The marginal value of momentum for small learning rate SGD", arXiv 2307.15196), Eq. 3; and
    quasi-hyperbolic momentum with nu = 1 (Ma and Yarats 2019, Eq. 3 and 4). While mu is constant, the same trajectory
    as heavy-ball form with lr (1 - mu), whatever lr does. Torch has no EMA form: this is *not*
    ``torch.optim.SGD(dampening=mu)``, which takes the whole first gradient. The defaults lr .01 and momentum .9 are
    ours: the steps of `Momentum` at its defaults. Stable for lr c < 2 (1 + mu) / (1 - mu).
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

    Quasi-hyperbolic momentum with nu = mu (Ma and Yarats 2019, Eq. 3 and 4). While mu is constant, the same trajectory
    as `Nesterov` with lr (1 - mu), whatever lr does. The stored w is the look-ahead point. Torch has no EMA form, and
    with nesterov no dampening. The defaults lr .01 and momentum .9 are ours: the steps of `Nesterov` at its defaults.
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

    Eq. 1 and 2, Sutskever's form. While lr is constant, the same trajectory as `Momentum`, whatever mu does, with
    v = -lr times its velocity. When lr changes, the velocity keeps what it has: torch's form rescales it at once. The
    default lr .001 is that of torch's SGD, momentum .9 is ours. For autoencoders the paper takes the best lr of a grid
    from .0001 to .05, and a schedule of mu, `ravine.schedules.SutskeverMomentum`, with a highest mu from 0 to .999.
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
    step; v = 0 at the start, and theta = w - mu' v' after a step: Sutskever's form. These are the paper's iterates for
    any schedule of lr and mu. While both are constant it is `Nesterov`, and so torch's; else torch has mu for mu', and
    rescales the velocity when lr changes. Where the next momentum is not known (no schedule of ours gives it),
    mu' = mu. Defaults as `SutskeverMomentum`: lr .001, that of torch's SGD, and momentum .9, ours.
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

    Ramezani-Kebrya, Khisti and Liang 2018, "On the generalization of stochastic gradient descent with momentum" (arXiv
    1809.04564; SGDEM is in 2102.13653 too): w_(t+1) = w_t + mu_t (w_t - w_(t-1)) - lr g_t. Their w_t - w_(t-1) is v, so
    the form is Sutskever's, and their t_d is until; t counts the steps of a parameter, from 1. until = 0 is gradient
    descent, until = the number of steps is `SutskeverMomentum`. The defaults, lr .001, momentum .9 and until 200, are
    ours; which t_d they took is not known to us. Nor is code of theirs. While lr is constant, ``torch.optim.SGD`` takes
    the same steps if its momentum is set to 0 after step until; when lr changes, its form rescales the velocity.
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
