"""What the benchmark of steps asks for, and how it times.

It asks for three times a peer's speed only where torch's own kernel would have it.
"""

from dataclasses import dataclass
from typing import Any, cast

import step


def row(peer_ms: float, stream_ms: float | None, passes: int) -> step.Row:
    ms = {"eager": 9.0, "compiled": 2.0, "pytorch-optimizer": peer_ms}
    return {
        "rule": "lion",
        "tensors": 10,
        "numel": 1000,
        "ms": ms if stream_ms is None else {**ms, "stream": stream_ms},
        "as_fast_as": {"compiled / pytorch-optimizer": [peer_ms / 2.0]},
        "share_of_bandwidth": {},
        "bytes_moved": passes * 4 * 10_000,
        "bytes_during_step": {"compiled": 0},
    }


def names(one: step.Row) -> list[str]:
    return [name for name, _, _ in step.limits(one)]


def test_three_times_is_asked_for_where_the_stream_is_as_fast() -> None:
    asked = "compiled, of pytorch-optimizer"
    assert step.allowed(row(6.0, 2.5, 5)) == 6.0 / 2.5
    assert asked not in names(row(6.0, 2.5, 5))
    assert asked in names(row(6.0, 2.0, 5))
    assert asked in names(row(6.0, 2.5, 3))  # fewer bytes than the stream moves
    assert asked in names(row(6.0, None, 5))  # before it was measured
    assert asked in names(row(6.0, 2.5, 5) | {"tensors": 1000, "numel": 10})


@dataclass
class Named:
    """A way that notes when it is timed."""

    name: str
    turns: list[str]

    def seconds(self) -> float:
        self.turns.append(self.name)
        return float(len(self.turns))


def test_ways_take_turns_in_a_random_order() -> None:
    turns: list[str] = []
    names = ["eager", "compiled", "single", "copy"]
    times = step.alternating(cast("Any", {name: Named(name, turns) for name in names}), 20)
    rounds = [turns[k : k + 4] for k in range(0, 80, 4)]
    assert all(sorted(each) == sorted(names) for each in rounds)
    assert len(set(map(tuple, rounds))) > 4
    assert len({each[each.index("copy") - 1] for each in rounds if each[0] != "copy"}) == 3
    assert times == {name: [1.0 + k for k, turn in enumerate(turns) if turn == name] for name in names}


def test_a_step_is_taken_before_a_way_is_timed() -> None:
    taken: list[None] = []

    class Counting:
        def step(self) -> None:
            taken.append(None)

    way = step.Way(cast("Any", Counting()))
    before, way.steps = len(taken), 5
    way.seconds()
    assert len(taken) == before + 1 + 5
