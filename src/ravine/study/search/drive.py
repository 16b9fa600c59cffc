"""Runs coroutines side by side, round by round."""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TypeVar

from ravine.study.search.requests import Coroutine, Request, Results

T = TypeVar("T")


def _rounds(coroutines: Sequence[Coroutine[T]]) -> Generator[list[Request], Results, list[T]]:
    """Advances all coroutines together; yields what the unfinished ones wait for, returns what all of them returned."""
    done: dict[int, T] = {}
    waiting: dict[int, Request] = {}

    def advance(i: int, step: Callable[[], Request]) -> None:
        try:
            waiting[i] = step()
        except StopIteration as stop:
            waiting.pop(i, None)
            done[i] = stop.value

    for i, coroutine in enumerate(coroutines):
        advance(i, coroutine.__next__)
    while waiting:
        results = yield list(waiting.values())
        for i, request in list(waiting.items()):
            own = {run: results[run] for run in request.runs}
            advance(i, partial(coroutines[i].send, own))
    return [done[i] for i in range(len(coroutines))]


def together(coroutines: Sequence[Coroutine[T]]) -> Coroutine[list[T]]:
    """Several coroutines in the same phase as one: their requests of a round are one request without repetitions."""
    rounds = _rounds(coroutines)
    try:
        requests = next(rounds)
        while True:
            runs = dict.fromkeys(run for request in requests for run in request.runs)
            requests = rounds.send((yield Request(requests[0].phase, tuple(runs))))
    except StopIteration as stop:
        returned: list[T] = stop.value
        return returned


def drive(coroutines: Sequence[Coroutine[T]], run: Callable[[list[Request]], Results]) -> list[T]:
    """Runs coroutines to their ends, round by round; `run` gives the results of all runs in a list of requests."""
    rounds = _rounds(coroutines)
    try:
        requests = next(rounds)
        while True:
            requests = rounds.send(run(requests))
    except StopIteration as stop:
        returned: list[T] = stop.value
        return returned
