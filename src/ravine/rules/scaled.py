"""Momentum whose step, or whose gradients, get one scalar for all parameters: normalized, or at random."""

import math
from collections.abc import Mapping

from torch import Tensor

from ravine.rules.base import Hyper, Numbers, Rule, Tensors, learning_rate
from ravine.rules.momentum import DECAY_OF_VELOCITY, EMA


class NormalizedMomentum(Rule):
    """SNGM: ``u <- mu u + g / |g|; w <- w - lr u``, u = 0 at the start, |g| the norm of the whole gradient.

    Zhao, Xie and Li 2020 (arXiv 2007.13985), Algorithm 1, in heavy-ball form: one Euclidean norm over all parameters,
    not one a layer. The paper has no epsilon, nor has this; a zero gradient counts as 0 / |0| = 0. A step is at most
    lr / (1 - mu) long, whatever the gradient, so it does not settle at constant lr: a decaying one is part of the
    method. Weight decay is added before the norm is taken. In one optimizer the norm goes over all its groups. The
    default momentum .9 is the paper's, lr .1 is ours. Torch has no such rule; no code of the authors is known to us.
    """

    name = "sngm"
    hyper: Mapping[str, Hyper] = {"lr": learning_rate(0.1), "momentum": DECAY_OF_VELOCITY}
    slots = ("momentum_buffer",)
    normed = True

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        velocity = state["momentum_buffer"].mul_(c["momentum"]).addcdiv_(grad, c["grad_norm"])
        param.addcmul_(velocity, c["lr"], value=-1)


class RandomScaling(Rule):
    """Randomly scaled momentum: ``m <- mu m + (1 - mu) g; w <- w - s lr m``, s ~ Exp(1) at each step, m = 0 at first.

    Zhang and Cutkosky 2024 ("Random scaling and momentum for non-smooth non-convex optimization", arXiv 2405.09742),
    the SGDM of the abstract, an instance of their Exponentiated O2NC: EMA form, g taken at w itself, one s for all
    parameters. It scales the update, not what enters the average. For such an s,
    E f(w + s d) - f(w) = E <grad f(w + s d), d> exactly. The averaged iterate of the theory is not kept. The defaults
    lr .01 and momentum .9 are ours, s ~ Exp(1) is the paper's. Torch has no such rule. No code of the paper is known to
    us; the first author's later code (ZQZCalin/trainit) scales the update too, and can draw s from [0, 2] with weights,
    which is not here.
    """

    name = "random-scaling"
    hyper: Mapping[str, Hyper] = {**EMA, "scale": Hyper(1.0, 0.0, math.inf, meaning="random factor of the step")}
    slots = ("momentum_buffer",)
    random = ("scale",)

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, "gain": 1 - h["momentum"], "length": h["lr"] * h["scale"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        average = state["momentum_buffer"].lerp_(grad, c["gain"])
        param.addcmul_(average, c["length"], value=-1)
