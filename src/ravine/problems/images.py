"""What the picture problems share: pixels stay bytes in memory and become numbers inside the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ravine.metrics import accuracy
from ravine.problems.data import files_of
from ravine.problems.problem import Problem
from ravine.problems.readers import read_idx


class Pixels(nn.Module):
    """(x / 255 - mean) / std for bytes x (rows, channels, height, width), mean and std one number a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) / 255 - self.mean) / self.std


def mnist_like(name: str, model: Callable[[], nn.Module]) -> Problem:
    """A fetched set of 28x28 grey pictures in 10 classes, in the four files of MNIST: 60,000 rows and 10,000 to test.

    Raises UserError when the data are not fetched.
    """
    folder = files_of(name)
    return Problem(
        name=name,
        model=model,
        loss=cross_entropy,
        train=idx_pair(folder, "train"),
        test=idx_pair(folder, "t10k"),
        metrics={"accuracy": accuracy},
        batch_size=128,
        steps=2000,
    )


def idx_pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """(images (rows, 1, 28, 28) uint8, labels (rows,) int64) of the part "train" or "t10k" of an MNIST-like set."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte")
    return images.unsqueeze(1), read_idx(folder / f"{part}-labels-idx1-ubyte").long()
