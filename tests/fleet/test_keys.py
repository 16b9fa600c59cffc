import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravine.fleet.keys import generator, global_states, key, seeded

CPU = torch.device("cpu")
numbers = st.lists(st.integers(-(10**6), 10**6), max_size=4)


def test_keys_never_change() -> None:
    assert key(0, "init", 0) == 8299312335750280238
    assert key(0, "draws", 3, 1000) == 8349076837429223944
    assert key(12345, "evaluate", 2) == 5083569893621249446
    assert generator(key(0, "order", 0, 0)).integers(2**31, size=3).tolist() == [1741858385, 530185430, 746546113]


@given(study=st.integers(0, 2**40), a=numbers, b=numbers)
def test_other_words_give_other_keys(study: int, a: list[int], b: list[int]) -> None:
    assert 0 <= key(study, "x", *a) < 2**63
    assert (key(study, "x", *a) == key(study, "x", *b)) == (a == b)
    assert key(study, "x", *a) != key(study, "y", *a)
    assert key(study, "x", 1, 23) != key(study, "x", 12, 3)


def drawn() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.random()), random.random()


def test_seeded_fixes_all_global_generators_and_gives_them_back() -> None:
    before = global_states(CPU)
    with seeded(7, CPU):
        first = drawn()
        assert global_states(CPU) != before
    assert global_states(CPU) == before
    drawn()
    with seeded(7, CPU):
        assert drawn() == first
    with seeded(8, CPU):
        assert all(a != b for a, b in zip(drawn(), first, strict=True))


def test_states_show_a_draw_from_each_generator() -> None:
    for draw in (lambda: torch.rand(()), np.random.random, random.random):
        before = global_states(CPU)
        draw()
        assert global_states(CPU) != before
