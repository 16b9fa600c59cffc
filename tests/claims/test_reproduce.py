"""Claims end to end: the exact ones whole, those that train at a size of seconds, and what is stored."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ravine import claims
from ravine.claims import CLAIMS, Claim, goh, laboratory, reproduce, sutskever
from ravine.claims.sutskever import Scale
from ravine.errors import UserError
from ravine.fleet.choose import Choice
from ravine.problems import Problem
from ravine.problems.autoencoders import autoencoder
from ravine.problems.curves import draw_curves
from ravine.problems.sequences import addition
from ravine.schedules import SutskeverMomentum
from ravine.study.engine import LocalEngine


def outcomes(result: Mapping[str, Any]) -> dict[str, str]:
    return {finding["statement"]: finding["outcome"] for finding in result["findings"]}


@pytest.mark.parametrize("name", ["sutskever-theorem", "goh"])
def test_the_exact_claims_are_reproduced(name: str, tmp_path: Path) -> None:
    (result,) = reproduce([name], out=tmp_path)
    assert set(outcomes(result).values()) == {"reproduced"}, outcomes(result)
    page = (tmp_path / "quick" / name / "index.html").read_text()
    for finding in result["findings"]:
        assert finding["statement"].split(":")[0][:20] in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert json.loads((tmp_path / "quick" / name / "result.json").read_text()) == json.loads(json.dumps(result))
    assert sorted(p.suffix for p in (tmp_path / "quick" / name).iterdir() if p.is_file()) == [".html", ".json", ".svg"]


def test_the_theorem_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With classical momentum in the place of Nesterov's, the identity is contradicted."""
    right = sutskever._trajectory

    def wrong(rule: str, *words: Any) -> torch.Tensor:
        return right("sutskever-momentum", *words)

    monkeypatch.setattr(sutskever, "_trajectory", wrong)
    (result,) = reproduce(["sutskever-theorem"], out=tmp_path)
    assert result["outcome"] == "contradicted"


def test_gohs_formulas_against_each_other() -> None:
    """Eigenvalues of the matrix, and the optimum, by numpy."""
    for alpha, beta, curvature in ((0.5, 0.5, 1.0), (0.1, 0.9, 3.0), (2.5, 0.6, 1.0)):
        by_numpy = np.sort_complex(np.linalg.eigvals(goh.matrix(alpha, beta, curvature)))
        ours = goh.eigenvalues(np.array(alpha), np.array(beta), np.array(curvature))
        np.testing.assert_allclose(np.sort_complex(ours), by_numpy, atol=1e-12)
    assert goh.optimum(1, 100)[2] == pytest.approx(9 / 11)
    assert goh.rate(np.array(0.1), np.array(0.81), np.array(1.0)) == pytest.approx(0.9)  # not 2 sqrt(beta)


TINY = {
    "quick": Scale(("curves",), 60, 2, 2),
    "evening": Scale(("curves",), 60, 2, 2),
    "paper": Scale(("curves",), 60, 2, 2),
}
SEQUENCES = {"quick": Scale(("addition",), 200, 2, 2)}


def tiny_curves(scale: float = 1.0) -> Problem:
    pictures = draw_curves(64, 0)
    words: dict[str, Any] = {"output": "logistic", "steps": 60, "validation": pictures, "scale": scale}
    return autoencoder("curves-small", (784, 12, 3), pictures, pictures, **words)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim at a size of seconds, one run at a time; what it finds is worth nothing."""
    monkeypatch.setattr(LocalEngine, "choose", lambda *_: Choice("single", 1, "no time to measure"))
    monkeypatch.setattr(sutskever, "load", lambda name: tiny_curves())
    monkeypatch.setattr(sutskever, "small_curves_autoencoder", tiny_curves)
    monkeypatch.setattr(sutskever, "MAKERS", {"addition": partial(addition, rows=500)})
    monkeypatch.setattr(sutskever, "AUTOENCODERS", TINY)
    monkeypatch.setattr(sutskever, "INITIALIZATIONS", TINY)
    monkeypatch.setattr(sutskever, "SEQUENCES", SEQUENCES)
    monkeypatch.setattr(sutskever, "RATES", (0.005, 0.001))
    monkeypatch.setattr(sutskever, "RNN_RATES", (0.03,))
    monkeypatch.setattr(sutskever, "MOMENTA", (0.5, 0.6))
    monkeypatch.setattr(sutskever, "RNN_MOMENTA", (0.9,))
    monkeypatch.setattr(sutskever, "SMALL_LENGTH", 10)
    table = {"0": 0.48, "0.5N": 0.16, "0.6N": 0.1, "0.5M": 0.15, "0.6M": 0.1}
    monkeypatch.setattr(sutskever, "TASKS", {"curves": table})
    monkeypatch.setattr(sutskever, "TABLE_3", {0.25: 16.0, 0.5: 16.0, 1.0: 0.074, 2.0: 0.083, 4.0: 0.35})


class Counted:
    """A listener that notes what was trained."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...


@pytest.mark.slow
def test_claims_that_train_store_every_run_and_go_on(small: None, tmp_path: Path) -> None:
    heard = Counted()
    (first,) = reproduce(["sutskever-autoencoders"], out=tmp_path, workers=1, listener=heard)
    assert [phase for phase in heard.phases if "runs" in phase] == [
        "curves-small, training error: 20 runs of 60 steps",
        "curves-small, training error: 10 runs of 60 steps",
    ]
    folder = tmp_path / "quick" / "sutskever-autoencoders"
    assert {path.name for path in folder.iterdir()} == {
        *("index.html", "result.json", "pilot.json", "runs", "curves-small-training-error.svg")
    }
    assert [row[0] for row in first["tables"][0]["rows"]] == [
        "paper, 750,000 updates",
        "here, 60 updates",
        "learning rate here",
    ]
    assert len(first["findings"]) == 4  # error falls twice for N and for M; nothing is said of momenta below .99

    again = Counted()
    (second,) = reproduce(["sutskever-autoencoders"], out=tmp_path, workers=1, listener=again)
    assert again.phases == ["sutskever-autoencoders"]
    assert second == first
    sorted((folder / "runs").glob("*.parquet"))[0].write_bytes(b"damaged")
    (third,) = reproduce(["sutskever-autoencoders"], out=tmp_path, workers=1, listener=again)
    assert len(again.phases) == 3
    assert outcomes(third) == outcomes(first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sutskever-tail", "sutskever-init-scale", "sutskever-rnn"])
def test_the_other_claims_run_through(name: str, small: None, tmp_path: Path) -> None:
    (result,) = reproduce([name], out=tmp_path, workers=1)
    assert result["findings"]
    assert all(finding["interval"] is not None for finding in result["findings"])
    assert (tmp_path / "quick" / "index.html").read_text().count(f'href="{name}/index.html"') == 1
    if name == "sutskever-rnn":
        assert outcomes(result)["addition: outputs that depend on no input have the known error"] == "reproduced"


def test_schedules_are_the_papers_in_proportion() -> None:
    """At the paper's length they are the paper's; at 1/375 of it the period is 1 and momentum .99 is seen."""
    full = sutskever.autoencoder_momentum(0.999, 750_000)
    assert full == SutskeverMomentum(0.999, 250, 750_000, 0.9, 1000)
    short = sutskever.autoencoder_momentum(0.99, 2_000)
    assert isinstance(short, SutskeverMomentum)
    assert (short.period, short.low_steps) == (1, 100)
    assert short(1_000) == 0.99
    assert sutskever.autoencoder_momentum(0.0, 2_000) == 0.0
    arm = sutskever.rnn_arms([0.98], 50_000)["0"](0.1)
    momentum = arm.hyper["momentum"]
    assert callable(momentum)
    assert (momentum(999), momentum(1000)) == (0.9, 0.0)


def test_momenta_need_their_time() -> None:
    assert Scale((), 2_000, 2, 1).momenta(sutskever.MOMENTA) == [0.9, 0.99]
    assert Scale((), 4_000, 2, 1).momenta(sutskever.MOMENTA) == [0.9, 0.99, 0.995]
    assert Scale((), 20_000, 2, 1).momenta(sutskever.MOMENTA) == [0.9, 0.99, 0.995, 0.999]


def test_committed_pilots_fit_the_quick_budget() -> None:
    """Each names all arms and rates of what it was made for; else quick would search on."""
    for problem, arms, grid in (
        ("curves-small, training error 2000", sutskever.autoencoder_arms([0.9, 0.99], 2_000), sutskever.RATES),
        ("addition (thesis, T = 30) 2000", sutskever.rnn_arms([0.9, 0.98], 2_000), sutskever.RNN_RATES),
    ):
        table = laboratory.committed_pilot(problem)
        if table is None:  # then quick searches itself
            continue
        assert set(table) == set(arms)
        assert all(list(row) == [f"{rate:g}" for rate in grid] for row in table.values())


def test_wrong_words_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no claim 'gooh': did you mean 'goh'"):
        reproduce(["gooh"], out=tmp_path)
    with pytest.raises(UserError, match="there is no budget 'fast'"):
        reproduce(["goh"], "fast", out=tmp_path)  # type: ignore[arg-type]


def test_a_budget_that_a_claim_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name it is explained; among all the claim is left out."""
    long = replace(CLAIMS["goh"], name="long", plans={"evening": "an hour", "paper": "days"})
    monkeypatch.setattr(claims, "CLAIMS", {"long": long, "sutskever-theorem": CLAIMS["sutskever-theorem"]})
    with pytest.raises(UserError, match="long has no budget 'quick': run it with --budget evening or paper"):
        reproduce(["sutskever-theorem", "long"], out=tmp_path)
    assert [result["claim"] for result in reproduce(out=tmp_path)] == ["sutskever-theorem"]


def test_every_claim_says_what_it_is() -> None:
    for claim in CLAIMS.values():
        assert isinstance(claim, Claim)
        assert claim.sentence.endswith(".")
        assert claim.plans
        assert set(claim.plans) <= {"quick", "evening", "paper"}
    assert claims.CLAIMS["goh"] == replace(claims.CLAIMS["goh"])
