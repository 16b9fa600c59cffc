"""What a check can say, and the way in which it says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeAlias
from unittest import SkipTest

from ravine.testing.case import Case

Status: TypeAlias = Literal["pass", "fail", "not applicable"]


class Nonconformance(AssertionError):
    """What is wrong in one sentence, with lines of Python that show it: the last of them raises."""

    def __init__(self, sentence: str, reproduction: str = "") -> None:
        super().__init__(sentence, reproduction)
        self.sentence = sentence
        self.reproduction = reproduction

    def __str__(self) -> str:
        return f"{self.sentence}\n\n{self.reproduction}".rstrip()


class NotApplicable(SkipTest):
    """The check does not apply to the optimizer, and why. Test runners take it for a skipped test."""


@dataclass(frozen=True)
class Outcome:
    """What a check found: the reason of a failure or of a check that does not apply, and the reproduction."""

    status: Status
    reason: str = ""
    reproduction: str = ""


@dataclass(frozen=True)
class Check:
    """One requirement: ``check(case)`` raises `Nonconformance` if it is not met, `NotApplicable` if it cannot be."""

    name: str
    requirement: str
    run: Callable[[Case], None]

    def __str__(self) -> str:
        return self.name

    def __call__(self, case: Case) -> None:
        if self.name in case.exempt:
            raise NotApplicable(case.exempt[self.name])
        with Probe(case, "opt = make([torch.ones(3, requires_grad=True)])"):
            self.run(case)


CHECKS: dict[str, Check] = {}
"""Every check by its name, in the order of the table."""


def check(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a function of a case as a check; its docstring is the requirement."""

    def register(run: Callable[[Case], None]) -> Callable[[Case], None]:
        assert name not in CHECKS
        CHECKS[name] = Check(name, (run.__doc__ or "").rstrip("."), run)
        return run

    return register


def require(condition: bool, sentence: str) -> None:
    """Raise `Nonconformance` unless the condition holds; `Probe` adds the reproduction."""
    if not condition:
        raise Nonconformance(sentence)


def applies(condition: object, reason: str) -> None:
    """Raise `NotApplicable` unless the condition holds."""
    if not condition:
        raise NotApplicable(reason)


class Probe:
    """The part of a check that drives the optimizer. Whatever goes wrong in it is shown by ``lines``.

    An optimizer under test may raise anything; in a probe every error of its own is a nonconformance. ``when`` says in
    the sentence what was being done.
    """

    def __init__(self, case: Case, *lines: str, when: str = "") -> None:
        self.reproduction = case.script(*lines)
        self.when = f"{when} " if when else ""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, NotApplicable) or not isinstance(error, Exception):
            return
        if isinstance(error, Nonconformance):
            raise Nonconformance(error.sentence, error.reproduction or self.reproduction) from error.__cause__
        said = str(error).strip().splitlines() or [""]
        raise Nonconformance(f"{self.when}it raises {type(error).__name__}: {said[0]}", self.reproduction) from error
