from collections.abc import Sequence

import pytest

from ravine.claims.laboratory import Arm, _parts, best_rate
from ravine.fleet.train import places


@pytest.mark.parametrize(
    ("runs", "size", "cut"),
    [(11, 16, [8, 3]), (21, 16, [16, 4, 1]), (28, 8, [8, 8, 8, 4]), (3, 1, [1, 1, 1]), (6, 16, [6])],
)
def test_runs_are_cut_so_that_few_places_of_a_stack_are_empty(runs: int, size: int, cut: Sequence[int]) -> None:
    missing = {f"{k:02}": (Arm("", "momentum", {}), k) for k in range(runs)}
    parts = [keys for _, keys in _parts(missing, size)]
    assert [len(keys) for keys in parts] == cut
    assert sorted(key for keys in parts for key in keys) == sorted(missing)
    assert sum(places(len(keys)) for keys in parts) <= runs + 2 * len(parts)


def test_a_part_has_one_rule_and_hessian_free_ones_are_alone() -> None:
    rules = ["momentum", "hessian-free", "momentum", "hessian-free", "nesterov"]
    missing = {str(k): (Arm("", rule, {}), k) for k, rule in enumerate(rules)}
    assert list(_parts(missing, 8)) == [
        *(("hessian-free", [key]) for key in "13"),
        ("momentum", ["0", "2"]),
        ("nesterov", ["4"]),
    ]


def test_of_equal_learning_rates_the_largest_is_taken_in_whatever_order() -> None:
    errors = {"0.1": 2.0, "1e-05": 1.0, "0.001": 1.0, "0.0003": 1.0}
    assert best_rate(errors) == best_rate(dict(sorted(errors.items()))) == 0.001
    assert best_rate({**errors, "1e-06": 0.5}) == 1e-6
