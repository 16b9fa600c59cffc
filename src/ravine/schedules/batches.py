"""Batches whose size follows a schedule."""

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol

from torch.utils.data import Sampler

from ravine.errors import UserError
from ravine.schedules.base import Setting, at


class Indices(Sized, Iterable[int], Protocol):
    """What a sampler of torch is: it has a length, and each pass over it gives indices."""


class ScheduledBatchSampler(Sampler[list[int]]):
    """Batches of indices from ``sampler``, the batch of step t with ``batch_size(t)`` of them, rounded.

    Give it to ``torch.utils.data.DataLoader`` as ``batch_sampler``. Steps count on from epoch to epoch; the last batch
    of an epoch takes what is left, or is left out with ``drop_last``. ``len`` is the number of batches of the epoch
    under way, or of the next one. A DataLoader with workers reads ahead, so after a checkpoint in the middle of an
    epoch set ``step`` to the number of steps that the optimizer has taken.

    >>> batches = ScheduledBatchSampler(range(10), lambda step: 2 + step)
    >>> list(batches), batches.step
    ([[0, 1], [2, 3, 4], [5, 6, 7, 8], [9]], 4)
    """

    def __init__(self, sampler: Indices, batch_size: Setting, *, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.step = 0
        self._epoch_start: int | None = None

    def size(self, step: int) -> int:
        """The size of the batch of a step; `UserError` if it rounds to less than 1."""
        if (size := round(at(self.batch_size, step))) < 1:
            raise UserError(f"the batch size is {size} at step {step}, and must be at least 1")
        return size

    def __iter__(self) -> Iterator[list[int]]:
        self._epoch_start = self.step
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.size(self.step):
                self.step += 1
                yield batch
                batch = []
        if batch and not self.drop_last:
            self.step += 1
            yield batch
        self._epoch_start = None

    def __len__(self) -> int:
        start = step = self.step if self._epoch_start is None else self._epoch_start
        left = len(self.sampler)
        while left >= (size := self.size(step)):
            left -= size
            step += 1
        return step - start + (left > 0 and not self.drop_last)
