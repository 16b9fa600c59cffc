"""Schedules against the numbers of their papers."""

import math
import pickle

import pytest

from ravine.errors import UserError
from ravine.schedules import Cosine, SutskeverMomentum


def test_momentum_of_sutskever_et_al() -> None:
    # Eq. 5 as printed, 1 - 2^(-1 - log2(floor(t / 250) + 1)), and the steps at which it reaches round numbers.
    schedule = SutskeverMomentum(highest=0.9999)
    for step in range(0, 5000, 37):
        assert schedule(step) == pytest.approx(1 - 2 ** (-1 - math.log2(step // 250 + 1)), rel=1e-14)
    reached = {0: 0.5, 249: 0.5, 250: 0.75, 1000: 0.9, 12_250: 0.99, 24_750: 0.995, 124_750: 0.999}
    for step, momentum in reached.items():
        assert schedule(step) == pytest.approx(momentum, rel=1e-14)
    assert SutskeverMomentum(highest=0.9)(10**6) == 0.9
    assert SutskeverMomentum(highest=0.0)(0) == 0.0


def test_a_shorter_period_compresses_it() -> None:
    short, long = SutskeverMomentum(0.99, period=25), SutskeverMomentum(0.99)
    assert [short(step) for step in range(2000)] == [long(10 * step) for step in range(2000)]


def test_cosine() -> None:
    schedule = Cosine(start=0.3, end=0.1, steps=100)
    assert [schedule(step) for step in (0, 25, 50, 100, 1000)] == pytest.approx(
        [0.3, 0.2 + 0.1 / math.sqrt(2), 0.2, 0.1, 0.1], rel=1e-14
    )


def test_schedules_pickle_and_check_their_words() -> None:
    for schedule in (Cosine(1.0, 0.0, 10), SutskeverMomentum(0.9)):
        assert pickle.loads(pickle.dumps(schedule)) == schedule
    for wrong in (
        lambda: SutskeverMomentum(1.0),
        lambda: SutskeverMomentum(0.9, period=0),
        lambda: Cosine(1.0, 0.0, 0),
    ):
        with pytest.raises(UserError, match="must"):
            wrong()
