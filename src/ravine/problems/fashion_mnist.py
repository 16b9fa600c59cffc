"""The built-in problem `fashion-mnist`."""

from __future__ import annotations

from torch import nn

from ravine.problems.images import Pixels, mnist_like
from ravine.problems.problem import Problem


def fashion_mnist() -> Problem:
    """Photographs of clothes, 28x28 pixels, 10 classes; a convolutional net of 16 and 32 channels. Fetched once.

    60,000 rows to train on and 10,000 to test. Raises UserError when the data are not fetched.
    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017.
    """
    return mnist_like("fashion-mnist", _net)


def _net() -> nn.Module:
    return nn.Sequential(
        Pixels((0.2860,), (0.3530,)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
