"""Sign methods: every element moves by lr, in the direction of its gradient's or its velocity's sign.

sign(0) = 0, as in ``torch.sign``: an element whose gradient has always been zero stays where it is.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ravine.rules.base import Hyper, Numbers, Rule, Tensors, fraction, learning_rate, retained, room, shrink
from ravine.rules.momentum import DECAY_OF_VELOCITY


class SignSGD(Rule):
    """signSGD: ``w <- w - lr sign(g)``, with sign(0) = 0.

    Bernstein et al. 2018, Algorithm 1. There is no momentum, and so no form of it. The default lr .001 is ours: Adam's,
    as both step by about lr. Torch has no such rule. The weight decay is added to the gradient; the authors' code of
    the majority vote adds it to the sign, after the vote.
    """

    name = "signsgd"
    hyper: Mapping[str, Hyper] = {"lr": learning_rate(1e-3)}
    rests = True
    rooms = ("direction",)

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        direction = torch.sign(grad, out=room(state, "direction", param))
        param.addcmul_(direction, c["lr"], value=-1)


class Signum(Rule):
    """Signum: ``m <- mu m + (1 - mu) g; w <- w - lr sign(m)``, with sign(0) = 0 and m = 0 at the start.

    Bernstein et al. 2018, Algorithm 2, in EMA form; while mu is constant, heavy-ball form has the same signs. The
    defaults lr .001 and momentum .9 are ours. Torch has no such rule. The weight decay is added to the gradient; the
    authors' code of the majority vote adds it to the sign, after the vote.
    """

    name = "signum"
    hyper: Mapping[str, Hyper] = {"lr": learning_rate(1e-3), "momentum": DECAY_OF_VELOCITY}
    slots = ("momentum_buffer",)
    rooms = ("direction",)

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, "gain": 1 - h["momentum"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        average = state["momentum_buffer"].lerp_(grad, c["gain"])
        direction = torch.sign(average, out=room(state, "direction", param))
        param.addcmul_(direction, c["lr"], value=-1)


class Lion(Rule):
    """Lion: ``w <- w - lr sign(b1 m + (1 - b1) g); m <- b2 m + (1 - b2) g``, with sign(0) = 0 and m = 0 at the start.

    Chen et al. 2023 ("Symbolic discovery of optimization algorithms"), Algorithm 2, in EMA form: the direction is taken
    before the average moves. Weight decay is decoupled, w <- (1 - lr weight_decay) w before the step. The
    defaults beta1 .9 and beta2 .99 are the paper's, lr .0001 is that of the authors' code; a good lr is 3 to 10 times
    smaller than Adam's, and a good weight decay as much larger. Torch has no such rule.
    """

    name = "lion"
    hyper: Mapping[str, Hyper] = {
        "lr": learning_rate(1e-4),
        "beta1": fraction(0.9, "share of the average in the direction of a step"),
        "beta2": fraction(0.99, "share of the average that a step keeps"),
    }
    slots = ("exp_avg",)
    decoupled = True
    rooms = ("direction",)

    def coefficients(self, h: Numbers) -> Numbers:
        return {**h, **retained(h), "gain1": 1 - h["beta1"], "gain2": 1 - h["beta2"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        direction = torch.lerp(state["exp_avg"], grad, c["gain1"], out=room(state, "direction", param)).sign_()
        shrink(param, c)
        param.addcmul_(direction, c["lr"], value=-1)
        state["exp_avg"].lerp_(grad, c["gain2"])
