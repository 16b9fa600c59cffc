"""The built-in problem `cifar10`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ravine.metrics import accuracy
from ravine.problems.data import files_of
from ravine.problems.images import Pixels
from ravine.problems.problem import Problem
from ravine.problems.readers import read_strips


def cifar10() -> Problem:
    """Photographs of 10 kinds of things, 32x32 colour pixels; a convolutional net with BatchNorm. Fetched once.

    50,000 rows to train on and 10,000 to test. Raises UserError when the data are not fetched or Pillow is missing.
    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    folder = files_of("cifar10")
    return Problem(
        name="cifar10",
        model=_net,
        loss=cross_entropy,
        train=_pair(folder, [f"data_batch_{part}" for part in range(1, 6)], "train_lables"),
        test=_pair(folder, ["test_batch"], "test_lables"),
        metrics={"accuracy": accuracy},
        batch_size=128,
        steps=3000,
    )


def _pair(folder: Path, strips: list[str], labels: str) -> tuple[Tensor, Tensor]:
    """(pictures (rows, 3, 32, 32) uint8, labels (rows,) int64); "lables" is how the package spells its files."""
    pictures = torch.cat([read_strips(folder / f"{strip}.png", 32, 32) for strip in strips])
    return pictures, torch.tensor(json.loads((folder / f"{labels}.json").read_text()))


def _net() -> nn.Module:
    return nn.Sequential(
        Pixels((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        *_block(3, 32),
        nn.MaxPool2d(2),
        *_block(32, 64),
        nn.MaxPool2d(2),
        *_block(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _block(before: int, after: int) -> tuple[nn.Module, ...]:
    """Convolution without a bias, which the BatchNorm after it has."""
    return nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
