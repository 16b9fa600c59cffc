"""Claims end to end: the exact ones whole, what is stored, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cases_claims import outcomes
from ravine import claims
from ravine.claims import CLAIMS, Claim, goh, reproduce
from ravine.errors import UserError


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


def test_gohs_formulas_against_each_other() -> None:
    """Eigenvalues of the matrix, and the optimum, by numpy."""
    for alpha, beta, curvature in ((0.5, 0.5, 1.0), (0.1, 0.9, 3.0), (2.5, 0.6, 1.0)):
        by_numpy = np.sort_complex(np.linalg.eigvals(goh.matrix(alpha, beta, curvature)))
        ours = goh.eigenvalues(np.array(alpha), np.array(beta), np.array(curvature))
        np.testing.assert_allclose(np.sort_complex(ours), by_numpy, atol=1e-12)
    assert goh.optimum(1, 100)[2] == pytest.approx(9 / 11)
    assert goh.rate(np.array(0.1), np.array(0.81), np.array(1.0)) == pytest.approx(0.9)  # not 2 sqrt(beta)


def test_wrong_words_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no claim 'gooh': did you mean 'goh'"):
        reproduce(["gooh"], out=tmp_path)
    with pytest.raises(UserError, match="there is no claim 'xyz': `ravine list claims` shows those there are"):
        reproduce(["xyz"], out=tmp_path)
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
