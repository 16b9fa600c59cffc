"""A fixed sample of coordinates of many tensors, so that looking at a step costs the same however large the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COORDINATES = 2**15
"""Coordinates watched. A norm then has a relative error of about 1 / sqrt(2 n), 0.4 %, a cosine of 1 / sqrt(n)."""
BLOCK = 64  # neighbouring coordinates taken together: whole lines of the cache


class Sketch:
    """Reads a list of tensors into one row: all coordinates if there are few, else blocks spread over each tensor.

    A coordinate that stands for c others is multiplied by sqrt(c), so that inner products of rows estimate those of
    the whole. In a row the sampled tensors come first; `order` and `lengths` say which tensor lies where.
    """

    def __init__(self, tensors: Sequence[Tensor], coordinates: int = COORDINATES) -> None:
        counts = [t.numel() for t in tensors]
        self.total = sum(counts)
        blocks = [_blocks(n, self.total, coordinates) for n in counts]
        self._sampled = [(k, *found) for k, found in enumerate(blocks) if found is not None]
        self._whole = [k for k, found in enumerate(blocks) if found is None]
        self.order = [k for k, _, _ in self._sampled] + self._whole
        self.lengths = [count * BLOCK for _, count, _ in self._sampled] + [counts[k] for k in self._whole]
        self.size = sum(self.lengths)
        self._cut = sum(count * BLOCK for _, count, _ in self._sampled)
        self.device = tensors[0].device
        self.dtype = torch.float64 if all(t.dtype == torch.float64 for t in tensors) else torch.float32
        self._roots: Tensor | None = None
        if self._sampled:
            weights = [counts[k] / n for k, n in zip(self.order, self.lengths, strict=True)]
            each = torch.tensor(weights, dtype=self.dtype).sqrt().repeat_interleave(torch.tensor(self.lengths))
            self._roots = each.to(self.device)
        self._known = [(t, t.data_ptr()) for t in tensors]
        self._views = self._pieces(tensors) if all(t.is_contiguous() for t in tensors) else None

    def row(self) -> Tensor:
        """A row of zeros, (size,)."""
        return torch.zeros(self.size, device=self.device, dtype=self.dtype)

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the tensors that it was made for, where they were."""
        return len(tensors) == len(self._known) and all(
            t is known and t.data_ptr() == place for t, (known, place) in zip(tensors, self._known, strict=True)
        )

    def in_place(self) -> bool:
        """Whether the first tensor is where it was."""
        first, place = self._known[0]
        return first.data_ptr() == place

    def read(self, tensors: Sequence[Tensor], out: Tensor) -> None:
        """The coordinates of the tensors that it was made for -> out (size,), not scaled."""
        self._fill(self._pieces(tensors) if self._views is None else self._views, out)

    def read_others(self, tensors: Sequence[Tensor | None], out: Tensor) -> None:
        """The coordinates of other tensors of the same shapes -> out (size,), not scaled; None is zero."""
        self._fill(self._pieces([_dense(t, known) for t, (known, _) in zip(tensors, self._known, strict=True)]), out)

    def scale(self, row: Tensor) -> None:
        """Multiply a row by the square roots of the weights, in place."""
        if self._roots is not None:
            row.mul_(self._roots)

    def _pieces(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Views of (blocks of the sampled tensors, the other tensors)."""
        flat = [(t.detach() if t.requires_grad else t).reshape(-1) for t in tensors]
        blocks = [flat[k].as_strided((count, BLOCK), (stride, 1)) for k, count, stride in self._sampled]
        return blocks, [flat[k] for k in self._whole]

    def _fill(self, pieces: tuple[list[Tensor], list[Tensor]], out: Tensor) -> None:
        blocks, whole = pieces
        if blocks:
            torch.cat(blocks, out=out[: self._cut].view(-1, BLOCK))
        if whole:
            torch.cat(whole, out=out[self._cut :])


def _blocks(numbers: int, total: int, coordinates: int) -> tuple[int, int] | None:
    """(blocks, stride between their beginnings) of a tensor, None to read it whole."""
    if total <= coordinates:
        return None
    count = math.ceil(numbers / total * coordinates / BLOCK)
    if 2 * count * BLOCK > numbers:
        return None
    stride = (numbers - BLOCK) // max(count - 1, 1)
    return count, stride - 1 + stride % 2  # an odd stride does not fall on the same columns of every row


def _dense(tensor: Tensor | None, like: Tensor) -> Tensor:
    if tensor is None:
        return torch.zeros_like(like)
    return tensor.to_dense() if tensor.is_sparse else tensor
