"""Claims at a size of seconds, one run at a time; what they find is worth nothing."""

from typing import Any

import pytest

from cases_study import HereEngine
from ravine.claims import laboratory
from ravine.claims.sutskever import autoencoders, initialization
from ravine.claims.sutskever.shared import Scale
from ravine.fleet.choose import Choice
from ravine.fleet.train import Executor
from ravine.problems import Problem
from ravine.problems.autoencoders import autoencoder
from ravine.problems.curves import draw_curves

TINY = dict.fromkeys(("quick", "evening", "paper"), Scale(("curves",), 60, 2, (0.005, 0.001), pilot_seeds=2))


def tiny_curves(scale: float = 1.0) -> Problem:
    pictures = draw_curves(64, 0)
    words: dict[str, Any] = {"output": "logistic", "steps": 60, "validation": pictures, "scale": scale}
    return autoencoder("curves-small", (784, 12, 3), pictures, pictures, **words)


class OneByOne(HereEngine):
    """Without processes, whose start takes longer than what is trained in them."""

    def choose(self, forced: Executor | None, run_steps: int) -> Choice:
        return Choice("single", 1, "no time to measure")


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laboratory, "LocalEngine", OneByOne)


@pytest.fixture
def small(one_by_one: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claims on autoencoders."""
    monkeypatch.setattr(autoencoders, "load", lambda name: tiny_curves())
    table = {"0": 0.48, "0.5N": 0.16, "0.6N": 0.1, "0.5M": 0.15, "0.6M": 0.1}
    monkeypatch.setattr(autoencoders, "TASKS", {"curves": table})
    monkeypatch.setattr(initialization, "small_curves_autoencoder", tiny_curves)
    monkeypatch.setattr(initialization, "INITIALIZATIONS", TINY)
    for module in (autoencoders, initialization):
        monkeypatch.setattr(module, "AUTOENCODERS", TINY)
        monkeypatch.setattr(module, "MOMENTA", (0.5, 0.6))
