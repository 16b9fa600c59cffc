"""Gradient descent."""

from collections.abc import Mapping

from torch import Tensor

from ravine.rules.base import Hyper, Rule, Tensors, learning_rate


class GradientDescent(Rule):
    """Gradient descent: ``w <- w - lr g``.

    With mini-batches it is SGD (Robbins and Monro 1951). Equals ``torch.optim.SGD(lr)`` bit for bit. There is no
    momentum, and so no form of it. The default lr .001 is torch's. On a quadratic of curvature c it is stable for
    lr c < 2.
    """

    name = "sgd"
    hyper: Mapping[str, Hyper] = {"lr": learning_rate(1e-3)}
    rests = True

    def apply(self, param: Tensor, grad: Tensor, state: Tensors, c: Tensors) -> None:
        param.addcmul_(grad, c["lr"], value=-1)
