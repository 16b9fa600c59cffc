"""Numbers and sentences of the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ravine.study.methods import METHODS

NOTHING = "–"  # what stands where a number is missing
SYMBOLS = {"pays": "▲", "hurts": "▼", "equal": "=", "undecided": "?"}


@dataclass(frozen=True)
class Numbers:
    """Formats differences so that a tenth of the margin is visible."""

    unit: str
    margin: float

    @property
    def is_log(self) -> bool:
        return self.unit.startswith("log-ratio")

    @property
    def places(self) -> int:
        return min(6, max(3, 1 - math.floor(math.log10(self.margin)))) if self.margin > 0 else 4

    def signed(self, value: float | None) -> str:
        """+0.012, with a true minus sign."""
        return NOTHING if value is None else f"{value:+.{self.places}f}".replace("-", "−")

    def interval(self, ends: Sequence[float] | None) -> str:
        return NOTHING if ends is None else f"{self.signed(ends[0])} to {self.signed(ends[1])}"

    def factor(self, value: float | None) -> str | None:
        """What a log-ratio means for the loss itself."""
        return f"loss × {math.exp(-value):.3g}" if self.is_log and value is not None else None


def plain(value: Any) -> str:
    """Any cell: numbers with four significant digits, lists joined, nothing as a dash."""
    match value:
        case None:
            return NOTHING
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:.4g}".replace("-", "−") if math.isfinite(value) else NOTHING
        case Mapping():
            return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or NOTHING
        case Sequence():
            return ", ".join(plain(item) for item in value) or NOTHING
    return str(value)


def seconds(value: float | None) -> str:
    """A duration in the unit that a person would use."""
    if value is None:
        return NOTHING
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if value < limit:
            return f"{value * scale:.3g} {unit}"
    return f"{value / 3600:.3g} h"


def listed(words: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part) if words else ""


def subject(verdict: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """What the headline is about, and the contrasts with the baseline that answer it.

    Momentum where a method with a hyper-parameter of that name was compared, else the compared methods themselves.
    """
    against = [c for c in verdict["contrasts"] if c["versus"] == verdict["baseline"]]
    moving = [c for c in against if c["method"] in METHODS and "momentum" in METHODS[c["method"]].anchors]
    if moving:
        return "momentum", moving
    return listed([c["method"] for c in against]) or "anything", against


def question(verdict: Mapping[str, Any]) -> str:
    """The headline, like: Does momentum pay on digits?"""
    about, contrasts = subject(verdict)
    verb = "Do" if about != "momentum" and len(contrasts) > 1 else "Does"
    return f"{verb} {about} pay on {verdict['problem']}?"


def answer(verdict: Mapping[str, Any], numbers: Numbers) -> str:
    """One plain sentence for the headline's question; `equal` and `undecided` are never said to be the same thing."""
    _, contrasts = subject(verdict)
    if not contrasts:
        return "Nothing was compared with the baseline."
    baseline, margin = verdict["baseline"], f"{numbers.margin:.3g}"
    by_word = {word: [c for c in contrasts if c["verdict"] == word] for word in SYMBOLS}
    clauses = []
    if better := by_word["pays"]:
        clauses.append(f"{_measured(better, numbers)} {_be(better, 'beats', 'beat')} tuned {baseline}")
    if worse := by_word["hurts"]:
        clauses.append(f"{_measured(worse, numbers)} {_be(worse, 'is', 'are')} worse than tuned {baseline}")
    if same := by_word["equal"]:
        names = listed([c["method"] for c in same])
        clauses.append(f"{names} and tuned {baseline} are equal within the margin of {margin}")
    if unknown := by_word["undecided"]:
        names = listed([c["method"] for c in unknown])
        needed = [c["seeds_needed"] for c in unknown]
        more = f"about {max(needed)} seeds would decide" if None not in needed else "more seeds alone would not decide"
        clauses.append(f"for {names} these seeds do not tell ({more})")
    return f"{_lead(by_word)}: {'; '.join(clauses)}."


def _lead(by_word: Mapping[str, Sequence[Any]]) -> str:
    found = {word for word, contrasts in by_word.items() if contrasts}
    if "pays" in found:
        return "Yes" if "hurts" not in found else "It depends on the form"
    if "hurts" in found:
        return "No, it hurts"
    return {frozenset({"equal"}): "It makes no practical difference", frozenset({"undecided"}): "Not decided"}.get(
        frozenset(found), "Not as far as decided"
    )


def _be(contrasts: Sequence[Any], one: str, many: str) -> str:
    return one if len(contrasts) == 1 else many


def _measured(contrasts: Sequence[Mapping[str, Any]], numbers: Numbers) -> str:
    def size(contrast: Mapping[str, Any]) -> str:
        return numbers.factor(contrast["difference"]) or f"{numbers.signed(contrast['difference'])} {numbers.unit}"

    return listed([f"{c['method']} ({size(c)})" for c in contrasts])


def early(verdict: Mapping[str, Any]) -> str | None:
    """What stopping earlier would change against the baseline, None where it changes nothing."""
    now = {(c["method"], c["versus"]): c["verdict"] for c in verdict["contrasts"]}
    steps_of: dict[str, list[str]] = {}
    for horizon in verdict.get("horizons") or []:
        contrasts = [c for c in horizon["contrasts"] if c["versus"] == verdict["baseline"]]
        changed = [c for c in contrasts if c["verdict"] != now.get((c["method"], c["versus"]))]
        said = [_at_horizon(word, [c for c in changed if c["verdict"] == word]) for word in SYMBOLS]
        if any(said):
            steps_of.setdefault("; ".join(part for part in said if part), []).append(f"{horizon['steps']:,}")
    return (
        " ".join(f"If you stop after {' or '.join(steps)} steps, {said}." for said, steps in steps_of.items()) or None
    )


def _at_horizon(word: str, contrasts: Sequence[Mapping[str, Any]]) -> str:
    if not contrasts:
        return ""
    one, many = {
        "pays": ("pays", "pay"),
        "hurts": ("hurts", "hurt"),
        "equal": ("is equal to the baseline", "are equal to the baseline"),
        "undecided": ("is undecided", "are undecided"),
    }[word]
    return f"{listed(list(dict.fromkeys(c['method'] for c in contrasts)))} {_be(contrasts, one, many)}"
