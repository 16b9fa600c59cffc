"""docs/monitor.md names every column, rule and argument."""

import doctest
import inspect
import re
from pathlib import Path

from ravine.monitor import Monitor, monitor, remarks
from ravine.monitor.records import LAYERS, STEPS

PAGE = (Path(__file__).parents[2] / "docs/monitor.md").read_text()


def first_column(heading: str) -> set[str]:
    rows = re.findall(r"(?:^\|.*\n)+", PAGE[PAGE.index(heading) :], re.MULTILINE)[0]
    return set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]+)\|", rows, re.MULTILINE))))


def test_every_column() -> None:
    assert first_column("| column of `steps`") - {"steps"} == set(STEPS)
    told = PAGE[PAGE.index("`layers` has") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", told)) - {"layers"} == set(LAYERS)


def test_every_rule() -> None:
    said = set(re.findall(r'Remark\(\s*"([^"]+)"', inspect.getsource(remarks) + inspect.getsource(monitor)))
    assert first_column("| rule |") == said


def test_every_argument() -> None:
    assert first_column("| argument |") == set(inspect.signature(Monitor).parameters)


def test_the_example_of_the_docstring_holds() -> None:
    assert doctest.testmod(monitor).failed == 0
