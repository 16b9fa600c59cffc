"""Batches whose size follows a schedule."""

import doctest

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

import ravine.schedules.batches
from ravine.errors import UserError
from ravine.schedules import NoiseDecay, Piecewise, ScheduledBatchSampler


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_constant_size_is_torch_s_batch_sampler(drop_last: bool) -> None:
    ours = ScheduledBatchSampler(range(10), 4, drop_last=drop_last)
    theirs = BatchSampler(range(10), 4, drop_last=drop_last)
    for _ in range(3):
        assert list(ours) == list(theirs)
        assert len(ours) == len(theirs)


def test_sizes_follow_the_step_across_epochs() -> None:
    sampler = ScheduledBatchSampler(SequentialSampler(range(10)), lambda step: 1 + step)
    assert len(sampler) == 4
    assert [len(batch) for batch in sampler] == [1, 2, 3, 4]
    assert len(sampler) == 2
    assert [len(batch) for batch in sampler] == [5, 5]  # of 6, what is left
    assert sampler.step == 6
    assert len(sampler) == 2
    assert [batch[0] for batch in sampler] == [0, 7]


def test_the_length_holds_during_the_epoch_and_a_step_can_be_set() -> None:
    sampler = ScheduledBatchSampler(range(12), Piecewise((2, 4), (3,)))
    assert [len(sampler) for _ in sampler] == [5] * 5  # 2, 2, 2, 4, 2
    assert len(sampler) == 3
    sampler.step = 1
    assert [len(batch) for batch in sampler] == [2, 2, 4, 4]


def test_a_loader_and_a_noise_schedule() -> None:
    data = TensorDataset(torch.arange(100))
    plan = NoiseDecay("lr+batch_size", 4, 6, 0.1, 0.0, 8, variance=1.0, bound=0.0)
    sampler = ScheduledBatchSampler(RandomSampler(data), plan.batch_size)
    loader = DataLoader(data, batch_sampler=sampler)
    sizes = []
    for _ in range(4):
        seen = [batch for (batch,) in loader]
        assert sorted(torch.cat(seen).tolist()) == list(range(100))
        sizes += [len(batch) for batch in seen]
    full = [size for size, batch in zip(sizes, map(plan.batch_size, range(len(sizes))), strict=True) if size == batch]
    assert len(full) >= len(sizes) - 4  # the last of each epoch may be short
    assert max(sizes) == round(8 * 4**0.9)


def test_a_size_below_one() -> None:
    with pytest.raises(UserError, match="0 at step 2, and must be at least 1"):
        list(ScheduledBatchSampler(range(10), lambda step: 2 - step))


def test_its_example() -> None:
    assert doctest.testmod(ravine.schedules.batches).attempted == 2
    assert doctest.testmod(ravine.schedules.batches).failed == 0
