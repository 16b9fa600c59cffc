"""The sentences: each verdict has its own words, and nothing undecided is called equal."""

from typing import Any

import pytest

from ravine.report import words
from ravine.report.words import Numbers

ACCURACY, LOSS = Numbers("accuracy", 0.01), Numbers("log-ratio of loss", 0.0488)


def verdict(**found: str) -> dict[str, Any]:
    """A verdict on digits against sgd, a word per method."""
    contrasts = [
        {"method": method, "versus": "sgd", "verdict": word, "difference": 0.0234, "seeds_needed": 61}
        for method, word in found.items()
    ]
    return {"problem": "digits", "baseline": "sgd", "contrasts": contrasts}


def test_the_question_is_about_momentum_where_there_is_any() -> None:
    assert words.question(verdict(momentum="pays", adam="equal")) == "Does momentum pay on digits?"
    assert words.question(verdict(adam="equal")) == "Does adam pay on digits?"
    assert words.question(verdict(adagrad="equal", rmsprop="pays")) == "Do adagrad and rmsprop pay on digits?"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"momentum": "pays"}, "Yes: momentum (+0.023 accuracy) beats tuned sgd."),
        (
            {"momentum": "pays", "nesterov": "pays"},
            "Yes: momentum (+0.023 accuracy) and nesterov (+0.023 accuracy) beat tuned sgd.",
        ),
        (
            {"momentum": "equal"},
            "It makes no practical difference: momentum and tuned sgd are equal within the margin of 0.01.",
        ),
        ({"momentum": "hurts"}, "No, it hurts: momentum (+0.023 accuracy) is worse than tuned sgd."),
        ({"momentum": "undecided"}, "Not decided: for momentum these seeds do not tell (about 61 seeds would decide)."),
    ],
)
def test_every_verdict_has_its_sentence(found: dict[str, str], said: str) -> None:
    assert words.answer(verdict(**found), ACCURACY) == said


def test_undecided_is_never_called_equal_and_a_mixture_is_said_in_full() -> None:
    assert "equal" not in words.answer(verdict(momentum="undecided"), ACCURACY)
    mixed = words.answer(verdict(momentum="pays", nesterov="hurts"), ACCURACY)
    assert mixed.startswith("It depends on the form: momentum") and "nesterov (+0.023 accuracy) is worse" in mixed
    assert words.answer(verdict(momentum="equal", nesterov="undecided"), ACCURACY).startswith("Not as far as decided:")


def test_a_log_ratio_is_said_as_a_factor_of_the_loss() -> None:
    assert "momentum (loss × 0.977) beats" in words.answer(verdict(momentum="pays"), LOSS)  # exp(-0.0234)


def test_stopping_earlier_is_told_where_it_changes_a_verdict() -> None:
    found = verdict(momentum="equal", nesterov="pays")
    found["horizons"] = [
        {"steps": 250, "contrasts": verdict(momentum="pays", nesterov="pays")["contrasts"]},
        {"steps": 500, "contrasts": verdict(momentum="equal", nesterov="pays")["contrasts"]},
    ]
    assert words.early(found) == "If you stop after 250 steps, momentum pays."
    found["horizons"] = found["horizons"][1:]
    assert words.early(found) is None


@pytest.mark.parametrize(
    ("margin", "shown"), [(0.01, "+0.012"), (0.02, "+0.012"), (0.0005, "+0.01235"), (0.0, "+0.0123")]
)
def test_a_tenth_of_the_margin_is_visible(margin: float, shown: str) -> None:
    assert Numbers("accuracy", margin).signed(0.012346) == shown


def test_numbers() -> None:
    assert ACCURACY.interval([-0.004, 0.0104]) == "−0.004 to +0.010"
    assert [words.plain(value) for value in (None, True, 3, 12345, 0.000123456, float("nan"), [1, 2.5])] == [
        "–", "True", "3", "12,345", "0.0001235", "–", "1, 2.5",
    ]  # fmt: skip
    assert [words.seconds(value) for value in (2.5e-4, 0.25, 60.0, 600.0, 9000.0)] == [
        "250 µs", "250 ms", "60 s", "10 min", "2.5 h",
    ]  # fmt: skip
