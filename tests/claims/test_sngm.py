"""The quartic by hand, and the claims at a size of seconds."""

from pathlib import Path

import pytest

from ravine.claims import reproduce, sngm
from ravine.claims.nets import Field
from ravine.claims.sngm import Scale


def test_the_quartic_is_stepped_as_the_equations_say() -> None:
    """In one dimension g / |g| is the sign of w."""
    seen = {name: sngm.quartic(rule, [0.001, 0.02]) for name, rule in sngm.METHODS.items()}
    for k, lr in enumerate((0.001, 0.02)):
        w, velocity = {"MSGD": 10.0, "SNGM": 10.0}, {"MSGD": 0.0, "SNGM": 0.0}
        for step in range(1, 6):
            for name in w:
                slope = w[name] ** 3 if name == "MSGD" else (w[name] > 0) - (w[name] < 0)
                velocity[name] = 0.9 * velocity[name] + slope
                w[name] -= lr * velocity[name]
                assert float(seen[name][step, k]) == pytest.approx(w[name], rel=1e-12)
    assert seen["MSGD"][-1].isinf().tolist() == [False, True]
    assert seen["SNGM"].isfinite().all()


def test_steps_reach_their_bound_and_forget_the_size_of_gradients() -> None:
    longest, gap = sngm._steps()
    assert 0.5 < longest <= 1
    assert gap < 1e-12


@pytest.mark.parametrize("name", ["sngm-stability", "sngm-large-batch"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = Field("digits", None, 3, 2, 1), Field("digits", None, 4, 2, 1), Field("digits", 16, 5, 2, 1)
    monkeypatch.setattr(sngm, "SCALES", {"quick": Scale(*fields)})
    monkeypatch.setattr(sngm, "LARGE_RATES", (0.1, 0.5))
    (result,) = reproduce([name], out=tmp_path)
    assert result["findings"] and result["figures"] and result["tables"]
    if name == "sngm-stability":
        assert result["outcome"] == "reproduced"
    else:
        assert all(finding["interval"] is not None for finding in result["findings"])
        assert [row[1] for row in result["tables"][0]["rows"]] == [
            "3 large",
            "3 large",
            "4 large",
            "4 large",
            "5 of 16",
        ]
