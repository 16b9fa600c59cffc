"""The built-in problem `mnist`."""

from __future__ import annotations

from torch import nn

from ravine.problems.images import Pixels, mnist_like
from ravine.problems.problem import Problem


def mnist() -> Problem:
    """Handwritten digits, 28x28 pixels, 10 classes; a dense net 784-128-64-10. Fetched once.

    60,000 rows to train on and 10,000 to test. Raises UserError when the data are not fetched.
    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998.
    """
    return mnist_like("mnist", _net)


def _net() -> nn.Module:
    return nn.Sequential(
        Pixels((0.1307,), (0.3081,)),
        nn.Flatten(),
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
