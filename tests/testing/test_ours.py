"""Every optimizer of ours against the suite."""

import pytest
import torch

import ravine.optim
from ravine.optim import RuleOptimizer
from ravine.testing import Trial, trials
from testing.ours import CASES, TWINS


@pytest.mark.parametrize("trial", trials(*CASES), ids=str)
def test_ours(trial: Trial) -> None:
    trial()


def test_no_optimizer_is_left_out() -> None:
    public = {getattr(ravine.optim, name) for name in ravine.optim.__all__}
    classes = {one for one in public if isinstance(one, type) and issubclass(one, torch.optim.Optimizer)}
    assert classes - {RuleOptimizer} == {case.optimizer for case in CASES}


def test_what_does_not_apply() -> None:
    # A check that stops to apply would pass for ever.
    assert all(case.equation for case in CASES)
    assert {case.name for case in CASES if case.decay == "decoupled"} == {"adamw", "lion"}
    assert {case.name for case in CASES if case.randomness} == {"random-scaling"}
    assert {case.name for case in CASES if case.couples} == {"sngm"}
    assert {case.name for case in CASES if case.twin} == TWINS.keys()
    assert not any(case.exempt for case in CASES)
