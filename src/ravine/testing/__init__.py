"""The conformance suite: what is wrong with an optimizer, for any optimizer.

A `Case` says what an optimizer is and promises; `case_of` reads one off the signature of a class. Each check of the
suite asserts one requirement. In a test file of your own, five lines do it:

    import pytest
    from my_package import MyOptimizer
    from ravine.testing import case_of, trials

    @pytest.mark.parametrize("trial", trials(case_of(MyOptimizer, decay="coupled")), ids=str)
    def test_my_optimizer(trial):
        trial()

A check that fails raises `Nonconformance`: one sentence, and a few lines of Python that show it without this package.
One that does not apply is skipped, with the reason. Without a test runner, `judge` gives the same as an `Outcome`.
Its reproduction (the last lines, printed for a person to run, and not run here) takes any error for a refusal, since
libraries agree on no class of it:

>>> import torch
>>> from ravine.testing import case_of, check_named, judge
>>> case = case_of(torch.optim.SGD, hyper={"nesterov": None}, decay="coupled")
>>> outcome = judge(case, check_named("unknown group key"))
>>> outcome.status, outcome.reason
('fail', "a misspelt name is accepted in silence: {'params': ..., 'momentun': 0.9}")
>>> print(outcome.reproduction)  # doctest: +ELLIPSIS
import functools, torch; from torch.optim.sgd import SGD
make = functools.partial(SGD, lr=0.1, momentum=0.9, ...
p = torch.ones(3, requires_grad=True); p.grad = torch.ones(3)
try: make([{'params': [p], 'momentun': 0.9}]).step()
except Exception: pass
else: assert False, 'momentun was accepted'
"""

import warnings
from dataclasses import dataclass

import torch

from ravine.errors import UserError
from ravine.testing import checks as _registered  # noqa: F401  (its import fills the registry)
from ravine.testing.case import Array, Case, Decay, Equation, Randomness, State, case_of
from ravine.testing.outcome import CHECKS, Check, Nonconformance, NotApplicable, Outcome, Status

__all__ = [
    "Array",
    "Case",
    "Check",
    "Decay",
    "Equation",
    "Nonconformance",
    "NotApplicable",
    "Outcome",
    "Randomness",
    "State",
    "Status",
    "Trial",
    "case_of",
    "check_named",
    "checks",
    "judge",
    "trials",
]


def checks() -> list[Check]:
    """Every check, in the order of the table."""
    return [*CHECKS.values()]


def check_named(name: str) -> Check:
    """The check of a name; `UserError` if there is none."""
    if name not in CHECKS:
        raise UserError(f"the suite has no check {name!r}: there are {', '.join(CHECKS)}")
    return CHECKS[name]


@dataclass(frozen=True)
class Trial:
    """One check of one case, to be called; `str` of it is an id for a test."""

    case: Case
    check: Check

    def __str__(self) -> str:
        return f"{self.case}: {self.check}"

    def __call__(self) -> None:
        # Other people's optimizers warn, draw from torch's generator and may leave it moved.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            self.check(self.case)


def trials(*cases: Case) -> list[Trial]:
    """Every check of every case, to parametrise a test with."""
    return [Trial(case, check) for case in cases for check in checks()]


def judge(case: Case, check: Check) -> Outcome:
    """What a check says of a case."""
    try:
        Trial(case, check)()
    except NotApplicable as absent:
        return Outcome("not applicable", str(absent))
    except Nonconformance as wrong:
        return Outcome("fail", wrong.sentence, wrong.reproduction)
    return Outcome("pass")
