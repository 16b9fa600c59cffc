"""The criteria: intervals against scipy's, and verdicts on numbers whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from ravine.claims import criteria
from ravine.claims.claim import Evidence, Finding

LOW, HIGH, ODD = [1.0, 1.1, 0.9, 1.0], [2.0, 2.1, 1.9, 2.2], [0.5, 4.0, 0.9, 1.3]


def test_intervals_are_students() -> None:
    values = [1.0, 2.0, 4.0, 3.5]
    mean, ends = criteria.interval(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean == np.mean(values)
    assert ends == pytest.approx(expected)


@pytest.mark.parametrize(
    ("finding", "outcome"),
    [
        (criteria.lower("", LOW, HIGH), "reproduced"),
        (criteria.lower("", HIGH, LOW), "contradicted"),
        (criteria.lower("", LOW, ODD), "not reproduced"),
        (criteria.not_above("", [1.01, 1.02, 1.01], [1.0, 1.0, 1.0]), "reproduced"),
        (criteria.not_above("", HIGH, LOW), "contradicted"),
        (criteria.not_above("", LOW, ODD), "not reproduced"),
        (criteria.less("", [0.0, 0.1, 0.0], [0.9, 0.9, 0.8], "wrong"), "reproduced"),
        (criteria.less("", [0.9, 0.9, 0.8], [0.0, 0.1, 0.0], "wrong"), "contradicted"),
        (criteria.less("", LOW, ODD, "wrong"), "not reproduced"),
        (criteria.less("", HIGH, LOW, "wrong", margin=2.0), "reproduced"),
        (criteria.less("", HIGH, LOW, "wrong", margin=0.5), "contradicted"),
        (criteria.equal("", LOW, [1.01, 1.1, 0.91, 1.0], 0.05, ""), "reproduced"),
        (criteria.equal("", LOW, HIGH, 0.5, ""), "contradicted"),
        (criteria.equal("", HIGH, LOW, 0.5, ""), "contradicted"),
        (criteria.equal("", LOW, ODD, 0.5, ""), "not reproduced"),
        (criteria.below("", LOW, 1.5, ""), "reproduced"),
        (criteria.below("", LOW, 0.5, ""), "contradicted"),
        (criteria.below("", LOW, 1.0, ""), "not reproduced"),
        (criteria.above("", LOW, 0.5, ""), "reproduced"),
        (criteria.above("", LOW, 1.5, ""), "contradicted"),
        (criteria.above("", LOW, 1.0, ""), "not reproduced"),
        (criteria.exact("", 1e-12, 1e-10, ""), "reproduced"),
        (criteria.exact("", 1e-9, 1e-10, ""), "contradicted"),
        (criteria.exact("", math.nan, 1e-10, ""), "contradicted"),
        (criteria.holds("", "", False, 1.0, ""), "contradicted"),
        (criteria.expected("", LOW, 1.05, ""), "reproduced"),
        (criteria.expected("", LOW, 2.0, ""), "contradicted"),
    ],
)
def test_verdicts(finding: Finding, outcome: str) -> None:
    assert finding.outcome == outcome


def test_a_ratio_and_its_interval_are_those_of_the_logarithms() -> None:
    found = criteria.lower("", LOW, HIGH)
    logs = np.log(np.array(LOW) / np.array(HIGH))
    ends = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    assert found.measured == pytest.approx(math.exp(logs.mean()))
    assert found.interval == pytest.approx(np.exp(ends))


def test_a_claim_is_as_good_as_its_worst_finding() -> None:
    good, open_, bad = criteria.lower("", LOW, HIGH), criteria.lower("", LOW, ODD), criteria.lower("", HIGH, LOW)
    assert Evidence([good, good]).outcome == "reproduced"
    assert Evidence([good, open_]).outcome == "not reproduced"
    assert Evidence([good, open_, bad]).outcome == "contradicted"


def test_a_cell_is_a_mean_with_its_interval() -> None:
    assert criteria.shown([1.0, 2.0, 3.0]) == "2 ± 2.5"
