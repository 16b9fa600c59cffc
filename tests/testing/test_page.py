"""docs/conformance.md is what the suite and the optimizers of today make of it, and clean where ours stand."""

import re
from pathlib import Path

import ravine
from ravine.testing import checks
from testing.ours import CASES

PAGE = (Path(__file__).parents[2] / "docs/conformance.md").read_text()
TABLE = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)]
HEAD = next(i for i, row in enumerate(TABLE) if row[0] == "check")


def test_it_says_how_it_was_made() -> None:
    assert "`make conformance`" in PAGE
    assert "\nconformance:" in (Path(__file__).parents[2] / "Makefile").read_text()


def test_its_rows_are_the_checks() -> None:
    assert [row[:2] for row in TABLE[HEAD + 2 :]] == [[check.name, check.requirement] for check in checks()]


def test_ours_pass_everywhere() -> None:
    column = TABLE[HEAD].index(f"ravine {ravine.__version__}")
    cells = {row[0]: row[column] for row in TABLE[HEAD + 2 :]}
    assert {name: cell for name, cell in cells.items() if not re.fullmatch(r"✓ \d+|–", cell)} == {}
    assert [name for name, cell in cells.items() if cell == "–"] == ["path parity"]  # no option of ours chooses one
    assert f"- **ravine** {ravine.__version__}: {', '.join(case.name for case in CASES)}\n" in PAGE


def test_every_failure_is_shown() -> None:
    failing = {row[0] for row in TABLE[HEAD + 2 :] if any(set(cell) & set("✗≠") for cell in row[2:])}
    blocks = re.findall(
        r"<summary><b>([\w ]+)</b>.*?</summary>\n\n```python\n(.+?)```\n\n```text\n(.+?)```", PAGE, re.DOTALL
    )
    assert {name for name, _, _ in blocks} == failing
    assert all("ravine" not in lines and len(lines.splitlines()) <= 8 for _, lines, _ in blocks)
    assert all(re.match(r"\w+(Error|Exception)\b", printed) for _, _, printed in blocks)
