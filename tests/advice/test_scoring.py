"""How advice is scored: the cells, the numbers, and that the committed score is that of the committed cells."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import advice
import ravine
from ravine.advice import predictor
from ravine.advice.forecast import CAREFUL
from ravine.problems.loading import PROBLEMS

RESULTS = json.loads(Path(advice.__file__).with_name("results").joinpath("advice.json").read_text())


def row(problem: str, x: float, verdict: str, regret: float = 0.1) -> advice.Row:
    return {
        "cell": f"{problem} {x}", "problem": problem, "feature": x, advice.TRUTH: verdict, "regret": regret,
        "margin": 0.1,
    }  # fmt: skip


def test_the_cells_are_of_every_built_in_problem_and_fitted_or_scored_never_both() -> None:
    cells = advice.cells()
    assert len(cells) == len({cell.name for cell in cells}) >= 48
    assert not set(advice.FIT) & set(advice.SCORE)
    stand_ins = {"quadratic": "noisy-quadratic", "ravine": "noisy-ravine", "digits": "dense"}
    assert {stand_ins.get(name, name) for name in PROBLEMS} <= {cell.problem for cell in cells}
    for name in {*advice.FIT, *advice.SCORE}:
        own = [cell for cell in cells if cell.problem == name]
        assert len({cell.batch_size for cell in own}) > 1 and len({cell.steps for cell in own}) > 1


def test_the_score_of_cells_by_hand() -> None:
    rows = [row("a", 2.0, "pays"), row("a", -2.0, "equal"), row("b", 2.0, "equal"), row("b", 0.0, "undecided")]
    found = advice.score(rows, advice.TRUTH)
    assert (found["cells"], found["undecided"]) == (4, 1)
    assert found["hit_rate"] == pytest.approx(2 / 3)
    assert found["hit_rate_of_the_commonest"] == pytest.approx(2 / 3)
    assert found["misses"] == ["b 2.0"]
    assert found["regret_in_margins"]["median"] == pytest.approx(1.0)
    chances = [predictor.probabilities(one["feature"], predictor.committed()) for one in rows[:3]]
    truth = ["pays", "equal", "equal"]
    brier = np.mean([sum((p[v] - (v == t)) ** 2 for v in p) for p, t in zip(chances, truth, strict=True)])
    assert found["brier"] == pytest.approx(brier)
    assert found["brier_of_the_commonest"] == pytest.approx(2 / 3)
    assert found["brier_skill"] == pytest.approx(1 - brier / (2 / 3))
    assert found["hit_rate_interval"][0] == 0.0  # b alone is missed
    assert found["hit_rate_interval"][1] == 1.0


def test_intervals() -> None:
    assert advice.wilson(16, 21) == pytest.approx([0.549, 0.894], abs=5e-4)
    values = np.array([1.0] * 6 + [0.0] * 6)
    within = advice.bootstrap([*"ab" * 6], lambda k: float(values[k].mean()))
    between = advice.bootstrap([*"a" * 6, *"b" * 6], lambda k: float(values[k].mean()))
    assert within == [0.5, 0.5]  # both problems are alike
    assert between == [0.0, 1.0]


def test_calibration_by_quarters() -> None:
    found = advice.calibration([0.1, 0.2, 0.9, 1.0], [False, True, True, True])
    assert found == [
        {"stated": pytest.approx(0.15), "came": 0.5, "cells": 2},
        {"stated": pytest.approx(0.95), "came": 1.0, "cells": 2},
    ]


def test_the_committed_score_and_coefficients_are_those_of_the_committed_cells() -> None:
    known = {cell.name for cell in advice.cells()}
    rows = RESULTS["rows"]
    assert {one["cell"] for one in rows} <= known
    fitted = [one for one in rows if one["problem"] in advice.FIT]
    again = predictor.fit([one["feature"] for one in fitted], [one[advice.TRUTH] for one in fitted])
    assert asdict(predictor.committed()) == pytest.approx(asdict(again), abs=2e-4) == RESULTS["coefficients"]
    held_out = [one for one in rows if one["problem"] in advice.SCORE]
    for name in (advice.TRUTH, "verdict"):
        assert json.loads(json.dumps(advice.score(held_out, name))) == RESULTS["held_out"][name]
    others = json.loads(json.dumps(advice.by_the_others(fitted)))
    assert others.pop("brier") == pytest.approx(RESULTS["held_out"]["fitted, by the others"].pop("brier"), abs=1e-3)
    for name in ("hit_rate", "verdicts", "misses", "undecided"):
        assert others[name] == RESULTS["held_out"]["fitted, by the others"][name]


@pytest.mark.parametrize(("share", "learns"), [(1.0, True), (1 / CAREFUL, False)])
def test_momentum_as_told_trains_a_net_on_which_it_diverges_at_the_edge(share: float, learns: bool) -> None:
    problem = advice.Cell("small-autoencoder", 64, 50).build()
    assert problem.loss is not None and isinstance(problem.train, tuple)
    told = ravine.advise(problem).with_momentum
    inputs, targets = problem.train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = problem.model()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=share * told.lr, momentum=told.momentum, nesterov=told.method == "nesterov"
    )
    losses = []
    for rows in torch.split(torch.arange(64 * 50).remainder(len(inputs)), 64):
        optimizer.zero_grad()
        loss = problem.loss(model(inputs[rows]), targets[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert (losses[-1] < 0.5 * losses[0]) == learns
