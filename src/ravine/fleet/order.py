"""Which rows a run sees at a step: a function of (study seed, run seed, step); steps can be asked for in any order."""

import functools

import numpy as np

from ravine.fleet.keys import generator, key

BLOCK = 64  # steps drawn at once "with-replacement"


class Order:
    """Batches of row numbers for one run seed.

    ``"shuffled"``: shuffled epochs one after the other; a batch may span two epochs, so the remainder of an epoch is
    carried over and every row is seen once an epoch. ``"with-replacement"``: independent uniform draws.
    A batch never has more rows than there are.
    """

    def __init__(self, study_seed: int, run_seed: int, rows: int, batch_size: int, sampling: str = "shuffled") -> None:
        self.rows, self.batch_size = rows, min(batch_size, rows)
        self._study_seed, self._run_seed = study_seed, run_seed
        shuffled = sampling == "shuffled"
        self._stretch = rows if shuffled else BLOCK * self.batch_size  # row numbers that are drawn at once
        self._drawn = functools.lru_cache(maxsize=2)(self._epoch if shuffled else self._block)

    def _generator(self, number: int) -> np.random.Generator:
        return generator(key(self._study_seed, "order", self._run_seed, number))

    def _epoch(self, number: int) -> np.ndarray:
        return self._generator(number).permutation(self.rows)

    def _block(self, number: int) -> np.ndarray:
        return self._generator(number).integers(self.rows, size=self._stretch)

    def batches(self, first: int, count: int) -> np.ndarray:
        """Row numbers of the batches of `count` steps from `first` (counted from 0), (count, batch_size), int64."""
        begin, end = first * self.batch_size, (first + count) * self.batch_size
        numbers = range(begin // self._stretch, -(-end // self._stretch))
        drawn = np.concatenate([self._drawn(number) for number in numbers])
        offset = numbers.start * self._stretch
        return drawn[begin - offset : end - offset].reshape(count, self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Row numbers of the batch of `step`, shape (batch_size,), int64."""
        rows: np.ndarray = self.batches(step, 1)[0]
        return rows
