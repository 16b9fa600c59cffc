"""What the picture problems share: pixels stay bytes in memory and become numbers inside the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

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


def idx_pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """(images (rows, 1, 28, 28) uint8, labels (rows,) int64) of the part "train" or "t10k" of an MNIST-like set."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte")
    return images.unsqueeze(1), read_idx(folder / f"{part}-labels-idx1-ubyte").long()
