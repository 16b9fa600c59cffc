"""Which rows a run sees at which step: a function of (study seed, run seed, step), so any step can be asked for at any time."""

import functools

import numpy as np
import torch
from torch import Tensor

from ravine.fleet.keys import numpy_generator

BLOCK = 64  # steps drawn at once "with-replacement"


class Order:
    """Batches of row numbers for one run seed.

    ``"shuffled"``: shuffled epochs one after the other; a batch may span two epochs, so the remainder of an epoch is
    carried over and every row is seen once an epoch. ``"with-replacement"``: independent uniform draws.
    """

    def __init__(self, study_seed: int, run_seed: int, rows: int, batch_size: int, sampling: str = "shuffled") -> None:
        self.rows, self.batch_size = rows, min(batch_size, rows)
        self._key = (study_seed, run_seed)
        draw = self._epoch if sampling == "shuffled" else self._block
        self._cached = functools.lru_cache(maxsize=2 + self.batch_size // rows)(draw)
        self._stride = rows if sampling == "shuffled" else BLOCK * self.batch_size

    def _epoch(self, number: int) -> np.ndarray:
        return numpy_generator(self._key[0], "order", self._key[1], number).permutation(self.rows)

    def _block(self, number: int) -> np.ndarray:
        generator = numpy_generator(self._key[0], "order", self._key[1], number)
        return generator.integers(self.rows, size=BLOCK * self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Row numbers of the batch of `step` (counted from 0), shape (batch_size,)."""
        start = step * self.batch_size
        stop = start + self.batch_size
        parts = []
        while start < stop:
            number, offset = divmod(start, self._stride)
            part = self._cached(number)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class FleetOrder:
    """The batches of many runs: row numbers of shape (seeds, batch), each seed drawn once however many runs share it."""

    def __init__(self, orders: list[Order], device: torch.device) -> None:
        self._orders, self._device = orders, device
        self._first = 0
        self._block = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """Row numbers of the batch of `step`, shape (seeds, batch_size), on the device."""
        offset = step - self._first
        if not 0 <= offset < len(self._block):
            block = np.stack([[order.batch(step + k) for order in self._orders] for k in range(BLOCK)])
            self._first, self._block, offset = step, torch.from_numpy(block).to(self._device), 0
        return self._block[offset]
