"""The two methods that are compared, and the weights of SVAG."""

from __future__ import annotations

import math
from collections.abc import Mapping

PAPER = "Wang, Malladi, Wang, Lyu and Li, ICLR 2024 (arXiv 2307.15196)"
MOMENTUM = 0.9
METHODS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "SGD": ("sgd", {}),
    "SGDM": ("ema-momentum", {"momentum": MOMENTUM}),
}
"""By name the rule and its hyper-parameters but the learning rate."""


def svag_weights(ell: float) -> tuple[float, float]:
    """(1 + c) / 2 and (1 - c) / 2, c = sqrt(2 ell - 1): what SVAG multiplies the losses of its two batches with."""
    c = math.sqrt(2 * ell - 1)
    return (1 + c) / 2, (1 - c) / 2
