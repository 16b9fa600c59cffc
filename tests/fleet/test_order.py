import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravine.fleet.order import BLOCK, Order

sizes = st.integers(1, 40)


@given(rows=sizes, batch_size=sizes, epochs=st.integers(1, 4))
def test_every_row_is_seen_once_an_epoch_and_the_remainder_is_carried_over(
    rows: int, batch_size: int, epochs: int
) -> None:
    order = Order(0, 1, rows, batch_size)
    steps = -(-epochs * rows // order.batch_size)
    seen = np.concatenate([order.batch(step) for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(rows=sizes, batch_size=sizes, sampling=st.sampled_from(["shuffled", "with-replacement"]), data=st.data())
def test_a_batch_is_a_function_of_seeds_and_step_alone(
    rows: int, batch_size: int, sampling: str, data: st.DataObject
) -> None:
    steps = data.draw(st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=20))
    asked = Order(3, 7, rows, batch_size, sampling)
    for step in steps:  # in any order, again and again
        fresh = Order(3, 7, rows, batch_size, sampling).batch(step)
        batch = asked.batch(step)
        assert np.array_equal(batch, fresh)
        assert len(batch) == min(rows, batch_size)
        assert batch.min() >= 0
        assert batch.max() < rows


def test_a_batch_of_at_least_all_rows_is_all_rows() -> None:
    for batch_size in (10, 11, 1000):
        for step in range(3):
            assert sorted(Order(0, 0, 10, batch_size).batch(step)) == list(range(10))


@pytest.mark.parametrize("sampling", ["shuffled", "with-replacement"])
def test_other_seeds_give_other_batches(sampling: str) -> None:
    batches = [
        tuple(Order(study, run, 1000, 64, sampling).batch(step))
        for study in (0, 1)
        for run in (0, 1)
        for step in (0, 1)
    ]
    assert len(set(batches)) == len(batches)


def test_with_replacement_draws_rows_evenly_and_again() -> None:
    order = Order(0, 0, 10, 10, "with-replacement")
    drawn = np.concatenate([order.batch(step) for step in range(2000)])
    counts = np.bincount(drawn, minlength=10)
    assert abs(counts - 2000).max() < 5 * (20000 * 0.1 * 0.9) ** 0.5
    assert any(len(set(order.batch(step))) < 10 for step in range(10))


def test_the_streams_of_batches_never_change() -> None:
    assert Order(0, 0, 10, 4).batch(0).tolist() == [0, 9, 4, 8]
    assert Order(0, 0, 10, 4).batch(2).tolist() == [2, 3, 9, 5]
    assert Order(5, 3, 100, 4, "with-replacement").batch(70).tolist() == [39, 49, 67, 26]
