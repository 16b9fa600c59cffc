"""What a study found, as text in a terminal: a row per contrast, the secondary contrasts in short, the warnings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ravine.report.words import Numbers, answer, plain, question, seconds

if TYPE_CHECKING:
    from ravine.study import Comparison

STYLES = {"pays": "bold green", "hurts": "bold red", "equal": "cyan", "undecided": "yellow"}


def show(screen: Console, comparison: "Comparison") -> None:
    """Print the verdicts of a study, every difference with its interval and unit."""
    found = comparison.verdict
    numbers = Numbers(found["unit"], found["margin"])
    screen.print()
    screen.print(Text(question(found), style="bold"), soft_wrap=True)
    screen.print(answer(found, numbers), soft_wrap=True)
    screen.print(_table(found, numbers, comparison.cost))
    screen.print(
        f"Differences are in {found['unit']} (endpoint {found['endpoint']}, margin {plain(found['margin'])}); "
        f"positive: better than {found['baseline']}.",
        soft_wrap=True,
    )
    _print_short(screen, "Same number of tuned dimensions", found["equal_dimension"], found, numbers)
    _print_short(screen, "At the defaults", found["defaults"], found, numbers)
    for horizon in found["horizons"]:
        _print_short(screen, f"Stopped after {horizon['steps']:,} steps", horizon["contrasts"], found, numbers)
    for contrast in found["contrasts"]:
        if contrast["note"]:
            screen.print(f"Note on {_name(contrast, found)}: {contrast['note']}", soft_wrap=True)
    for warning in found["warnings"]:
        screen.print(Text(f"Warning: {warning}", style="yellow"), soft_wrap=True)
    for caveat in found["caveats"]:
        screen.print(f"Caveat: {caveat}", soft_wrap=True)


def _table(found: Mapping[str, Any], numbers: Numbers, cost: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for the baseline, with its score in place of a difference, and one per contrast."""
    baseline = found["baseline"]
    fitted = found["methods"][baseline]
    table = Table(
        "method",
        Column("verdict", no_wrap=True),
        Column("difference", no_wrap=True),
        "seeds",
        "settings",
        "cost",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    score = f"score {plain(fitted['score'])}"
    table.add_row(baseline, "baseline", score, "", _lines(fitted["settings"]), _cost(fitted, cost.get(baseline, {})))
    for contrast in found["contrasts"]:
        method, word = contrast["method"], contrast["verdict"]
        table.add_section()
        table.add_row(
            _name(contrast, found).replace(" versus ", "\nversus "),
            Text(word, style=STYLES[word]),
            f"{numbers.signed(contrast['difference'])}\n{numbers.interval(contrast['interval'])}",
            _seeds(contrast),
            _lines(contrast["settings"]),
            _cost(found["methods"][method], cost.get(method, {})),
        )
    return table


def _print_short(
    screen: Console, title: str, contrasts: Sequence[Mapping[str, Any]], found: Mapping[str, Any], numbers: Numbers
) -> None:
    """One line for a whole list of contrasts."""
    parts = [
        f"{_name(contrast, found)} {contrast['verdict']} "
        f"({numbers.signed(contrast['difference'])}, {numbers.interval(contrast['interval'])})"
        for contrast in contrasts
    ]
    if parts:
        screen.print(f"{title}: {'; '.join(parts)}.", soft_wrap=True)


def _name(contrast: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The method, and whom it is compared with where that is not the baseline."""
    method, versus = contrast["method"], contrast["versus"]
    return str(method) if versus == found["baseline"] else f"{method} versus {versus}"


def _lines(settings: Mapping[str, float]) -> str:
    return "\n".join(f"{name} {plain(value)}" for name, value in settings.items())


def _seeds(contrast: Mapping[str, Any]) -> str:
    lines = [str(contrast["seeds"])]
    if contrast["verdict"] == "undecided" and contrast["seeds_needed"] is not None:
        lines.append(f"needs {contrast['seeds_needed']:,}")
    lines.append("{} : {} diverged".format(*contrast["diverged"]))
    return "\n".join(lines)


def _cost(fitted: Mapping[str, Any], cost: Mapping[str, float]) -> str:
    lines = [f"{fitted['trials']} trials"]
    if "gradient_equivalents" in cost:
        lines.append(f"{plain(cost['gradient_equivalents'])} grad/step")
    if "seconds_per_step" in cost:
        lines.append(f"{seconds(cost['seconds_per_step'])}/step")
    return "\n".join(lines)
