"""The built-in problem `digits`: 1,797 handwritten digits of 8x8 pixels that ship with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ravine.metrics import accuracy
from ravine.problems.problem import Problem

_TRAIN_ROWS = 1437


def digits() -> Problem:
    """Handwritten digits, 8x8 pixels, 10 classes; a small dense net learns them in a second.

    Inputs (rows, 64) float32 = pixel / 16 - 0.5 with pixels 0..16; 1,437 rows to train on and 360 to test. The rows of
    the file are those of scikit-learn's `load_digits` in one random order, that of torch's generator seeded with 0.
    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        inputs = torch.from_numpy(file["images"]).flatten(1) / 16 - 0.5
        targets = torch.from_numpy(file["labels"]).long()
    return Problem(
        name="digits",
        model=_net,
        loss=cross_entropy,
        train=(inputs[:_TRAIN_ROWS], targets[:_TRAIN_ROWS]),
        test=(inputs[_TRAIN_ROWS:], targets[_TRAIN_ROWS:]),
        metrics={"accuracy": accuracy},
        batch_size=64,
        steps=1000,
    )


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
