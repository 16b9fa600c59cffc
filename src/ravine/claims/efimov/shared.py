"""The five methods of the article."""

from __future__ import annotations

from collections.abc import Mapping

PAPER = 'Efimov, "Understanding Deep Learning Optimizers", Towards Data Science 2023'
ROUNDING = 1e-10
SETTINGS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "gradient descent": ("sgd", {}),
    "momentum": ("ema-momentum", {"momentum": 0.9}),
    "AdaGrad": ("adagrad", {}),
    "RMSProp": ("rmsprop", {"alpha": 0.9}),
    "Adam": ("adam", {"beta1": 0.9, "beta2": 0.999}),
}
"""At the article's numbers; for RMSProp Hinton's."""
