"""Judge one peer in a process of its own: ``python -m conformance.judge NAME`` prints what was found as JSON."""

import json
import re
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from conformance.fresh import failures
from conformance.peers import PEERS

from ravine.testing import checks, judge


def fault(reason: str) -> str:
    """What failures of several optimizers have in common: the sentence up to its colon, without its numbers."""
    return re.sub(r"\[.*?\]|\(.*?\)|-?\d[\w.+-]*", "#", reason.split(":")[0])


def found(name: str) -> dict[str, Any]:
    """The version of the peer, and for each check the outcome of each case.

    The first reproduction of each fault is the one that is shown. It is run in a process of its own, and must fail:
    what it then says is kept with it.
    """
    distribution, make = PEERS[name]
    table: dict[str, list[dict[str, Any]]] = {check.name: [] for check in checks()}
    cases, shown = make(), []
    for case in cases:
        for check in checks():
            outcome = judge(case, check)
            row = {"case": case.name, **asdict(outcome), "fault": fault(outcome.reason)}
            if outcome.status == "fail" and row["fault"] not in {one["fault"] for one in table[check.name]}:
                shown.append(row)
            table[check.name].append(row)
    modules = ["torch", *{case.module for case in cases if shown}]
    for row, said in zip(shown, failures(modules, [row["reproduction"] for row in shown]), strict=True):
        assert said, f"{row['case']}: {row['reason']}: this ran through:\n{row['reproduction']}"
        row["printed"] = said
    return {"version": version(distribution), "checks": table}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    json.dump(found(sys.argv[1]), sys.stdout)
