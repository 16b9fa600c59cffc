"""Write docs/conformance.md: every peer against the suite, each judged in a process of its own.

    PYTHONPATH=src:tests:benchmarks python -m conformance.page

``make conformance`` makes the environment and runs it.
"""

import html
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from conformance.peers import DOCUMENTED, PEERS

from ravine.testing import checks

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
Found: TypeAlias = dict[str, Any]

HEAD = """# Conformance: what a user may expect of an optimizer, and what he gets

One suite, `ravine.testing`, over every optimizer of ravine and over those of its peers that have momentum or a near
relation of it. Each row of the table is one requirement: of the paper, of torch's contract, or of what keeps a
mistake from passing unseen. Each column is a library, at the version named.

`make conformance` made this page and makes it again: it installs the peers in an environment of their own, runs the
suite over them, and runs every reproduction below in a process of its own, where it must fail. {where}

| in a cell | of the optimizers to which the check applies |
|---|---|
| ✓ 7 | all 7 meet the requirement |
| ✗ 2/7 | 2 of 7 do not; [below](#the-failures), a sentence and a few lines that show it without ravine |
| ≠ 2/7 | 2 of 7 do not, and their documentation or their source says so: [by design](#different-by-design) |
| – | there are none: the library has no such feature, or another contract |

"""

READING = """
A ✗ says that a requirement is not met, not that a word was broken: most libraries promise little of this. How they
are asked:

- A peer is asked for what it documents: its own kind of weight decay, its own names, its own paths. What it leaves to
  an option is asked for with the option: heavyball keeps gradients with `consume_grad=False`, and clears them
  without.
- Learning rate and weight decay are large, so that a few steps show a difference. A difference counts from 1e-5 of
  the parameters up (torch's own rules: 1e-12, in float64).
- A failure of one path, such as `fused=True`, is a failure of the optimizer; its sentence names the path.
- `no aliasing`, `state keeps its dtype` and `unknown group key` are decided in the base class
  `torch.optim.Optimizer`: what fails there fails in most libraries that build on it.
- optax's optimizers are pure functions of arrays, and torch's contract is not theirs: it is here for its numbers.
  schedulefree's averages have no equation among the references, and take the place of a schedule.
"""

YOURS = """
## Hold your own optimizer to it

The suite is public. In a test file, these lines hold any optimizer to it:

```python
import pytest
from ravine.testing import case_of, trials
from torch.optim import AdamW  # in its place, yours


@pytest.mark.parametrize("trial", trials(case_of(AdamW, decay="decoupled")), ids=str)
def test_my_optimizer(trial):
    trial()
```

A requirement that is not met fails the test with a sentence and a reproduction; one that does not apply is skipped
with the reason. `case_of` reads names and defaults off the signature, and `Case` says what else an optimizer can
promise: an equation in float64 NumPy, the twin in torch, its paths, the bytes of its state, what is random in it. A
requirement that you document otherwise goes into `exempt`, with the reason. Without pytest:

```python runs
import torch
from ravine.testing import case_of, checks, judge

case = case_of(torch.optim.Adagrad, decay="coupled", graphs=None)
for check in checks():
    outcome = judge(case, check)
    if outcome.status == "fail":
        print(check.name, outcome.reason, outcome.reproduction, sep="\\n")
```
"""


def judged(name: str) -> Found:
    """What `conformance.judge` says of a peer, from a process of its own, with what is documented marked."""
    command = [sys.executable, "-W", "ignore", "-m", "conformance.judge", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    one: Found = json.loads(done.stdout)
    for documented in DOCUMENTED:
        if name in documented.peers:
            rows = [row for row in one["checks"][documented.check] if documented.covers(row["case"])]
            assert any(row["status"] == "fail" for row in rows), f"{name} no longer differs in {documented.check}"
            for row in rows:
                row["status"] = "by design" if row["status"] == "fail" else row["status"]
    return one


def cell(rows: list[Found]) -> str:
    """How many of the cases fail or differ, of those to which the check applies."""
    asked = [row["status"] for row in rows if row["status"] != "not applicable"]
    if not asked:
        return "–"
    marks = {"✗": asked.count("fail"), "≠": asked.count("by design")}
    return ", ".join(f"{mark} {n}/{len(asked)}" for mark, n in marks.items() if n) or f"✓ {len(asked)}"


def table(found: dict[str, Found]) -> Iterator[str]:
    """The table, as lines of Markdown."""
    yield "| check | requirement | " + " | ".join(f"{name} {one['version']}" for name, one in found.items()) + " |"
    yield "|---|---|" + "---|" * len(found)
    for check in checks():
        cells = " | ".join(cell(one["checks"][check.name]) for one in found.values())
        yield f"| {check.name} | {check.requirement} | {cells} |"


def optimizers(found: dict[str, Found]) -> Iterator[str]:
    """Which optimizers stand behind a column."""
    yield "\nThe optimizers:\n"
    for name, one in found.items():
        cases = [row["case"] for row in next(iter(one["checks"].values()))]
        yield f"- **{name}** {one['version']}: {', '.join(cases)}"


def differences(found: dict[str, Found]) -> Iterator[str]:
    """What is documented to be otherwise, with the word of the library; the lines of the first stand for all."""
    yield "\n## Different by design"
    for documented in DOCUMENTED:
        name = documented.peers[0]
        yield f"\n**{documented.check}** ({', '.join(documented.peers)}). {documented.sentence}\n"
        yield from folded(documented.check, of_status(found[name], "by design")[documented.check])


def failures(found: dict[str, Found]) -> Iterator[str]:
    """Every failure, by peer."""
    yield "\n## The failures\n\nOne line a fault; open it for the lines of Python, and what they printed here."
    for name, one in found.items():
        failed = of_status(one, "fail")
        if failed:
            yield f"\n### {name} {one['version']}\n"
        for check, rows in failed.items():
            yield from folded(check, rows)


def of_status(one: Found, status: str) -> dict[str, list[Found]]:
    """The rows of a peer that have a status, by check."""
    kept = {check: [row for row in rows if row["status"] == status] for check, rows in one["checks"].items()}
    return {check: rows for check, rows in kept.items() if rows}


def folded(check: str, rows: list[Found]) -> Iterator[str]:
    """The faults among rows, each once: its cases, the sentence of the first, and the reproduction, folded."""
    for fault in dict.fromkeys(row["fault"] for row in rows):
        alike = [row for row in rows if row["fault"] == fault]
        cases, first = ", ".join(row["case"] for row in alike), alike[0]
        yield f"<details><summary><b>{check}</b> · {cases}: {html.escape(first['reason'], quote=False)}</summary>\n"
        yield f"```python\n{first['reproduction']}\n```\n"
        yield f"```text\n{first['printed']}\n```\n\n</details>\n"


def main() -> None:
    """Judge everybody and write the page."""
    found: dict[str, Found] = {}
    for name in PEERS:
        print(f"judging {name}", flush=True)
        found[name] = judged(name)
    where = f"This time: Python {platform.python_version()}, {platform.system()} on {platform.machine()}, the CPU."
    lines = [HEAD.format(where=where), *table(found), READING, *optimizers(found), YOURS]
    lines += [*differences(found), *failures(found)]
    aside = PAGE.with_suffix(".part")
    aside.write_text("\n".join(lines).rstrip() + "\n")
    os.replace(aside, PAGE)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
