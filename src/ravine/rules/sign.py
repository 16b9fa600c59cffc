"""Sign methods: every element moves by lr, in the direction of its gradient's or its velocity's sign.

sign(0) = 0, as in ``torch.sign``: an element whose gradient has always been zero stays where it is.
"""

from typing import ClassVar

from torch import Tensor

from ravine.rules.base import Hyper, Rule, Tensors, learning_rate
from ravine.rules.momentum import DECAY_OF_VELOCITY


class SignSGD(Rule):
    """signSGD: ``w <- w - lr sign(g)``, with sign(0) = 0 (Bernstein et al. 2018, Algorithm 1)."""

    name = "signsgd"
    hyper: ClassVar[dict[str, Hyper]] = {"lr": learning_rate(1e-3)}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        param.addcmul_(grad.sign(), c["lr"], value=-1)


class Signum(Rule):
    """Signum: ``m <- mu m + (1 - mu) g; w <- w - lr sign(m)``, with sign(0) = 0 and m = 0 at the start.

    Bernstein et al. 2018, Algorithm 2. The weight decay is added to the gradient, not to the sign.
    """

    name = "signum"
    hyper: ClassVar[dict[str, Hyper]] = {"lr": learning_rate(1e-3), "momentum": DECAY_OF_VELOCITY}
    slots = ("momentum_buffer",)

    def coefficients(self, h: Tensors) -> Tensors:
        return {**h, "gain": 1 - h["momentum"]}

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        average = state["momentum_buffer"].lerp_(grad, c["gain"])
        param.addcmul_(average.sign(), c["lr"], value=-1)
