"""The benchmark of steps asks for three times a peer's speed only where torch's own kernel would have it."""

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
