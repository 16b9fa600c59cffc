"""What a search asks for, and what it is sent back.

A search is a coroutine: it yields a `Request` for runs and is sent their results, so the same code runs on the real
engine, on a simulated one and on a stored table.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from ravine.study.methods import Hyper
from ravine.study.space import Floats


@dataclass(frozen=True)
class Run:
    """The identity of a run; equal runs are trained once. `hyper`: the searched hyper-parameters, sorted by name."""

    method: str
    hyper: Hyper
    seed: int
    steps: int
    test: bool = False


@dataclass(frozen=True)
class Configuration:
    """A method with a setting of its searched hyper-parameters."""

    method: str
    hyper: Hyper

    def runs(self, seeds: Iterable[int], steps: int, test: bool = False) -> tuple[Run, ...]:
        """One run per seed."""
        return tuple(Run(self.method, self.hyper, seed, steps, test) for seed in seeds)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return dict(self.hyper)["lr"]


@dataclass(frozen=True)
class Request:
    """Runs that a coroutine waits for.

    phase: "probe", "coarse", "fixed" (the equal-dimension search), "local", "extension-1", "extension-2", "screen" or
    "evaluate".
    """

    phase: str
    runs: tuple[Run, ...]


class Result(Protocol):
    """What a run gave. Curves have one value per entry of `steps`, the steps after which it was evaluated."""

    @property
    def initial_loss(self) -> float:
        """Training loss at initialization."""

    @property
    def final_train_loss(self) -> float:
        """Training loss after the last step."""

    @property
    def diverged_at(self) -> int | None:
        """The step at which the run was given up, None if it was not."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps after which the run was evaluated, ascending."""

    @property
    def validation(self) -> Mapping[str, Floats]:
        """Curves of "loss" and of every metric on the validation data."""

    @property
    def test(self) -> Mapping[str, Floats] | None:
        """The same on the test data, if the run asked for it."""


Results: TypeAlias = Mapping[Run, Result]
T = TypeVar("T")
Coroutine: TypeAlias = Generator[Request, Results, T]
