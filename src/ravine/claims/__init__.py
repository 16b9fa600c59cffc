"""Claims of papers about momentum that anyone can re-run: `ravine reproduce`.

Each module named in `PAPERS` holds the claims of one paper in a tuple `CLAIMS`. A claim is a sentence, what each budget
runs, and a function that brings the evidence; its criteria stand in the code before anything is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from ravine.claims import (
    adamomentum,
    adamp,
    andriushchenko,
    chatterjee,
    cowsik,
    diffusion,
    direction,
    early_momentum,
    efimov,
    goh,
    jelassi,
    local_sgd,
    majority_vote,
    memory,
    mustafa,
    page,
    random_scaling,
    sato,
    sgdf,
    signsgd,
    sngm,
    sutskever,
    wang,
)
from ravine.claims.claim import Budget, Claim, Evidence, Finding, Outcome, Table
from ravine.claims.laboratory import Laboratory, Listener
from ravine.errors import UserError, WorkError
from ravine.rules.base import hint
from ravine.study.declare import machine, versions
from ravine.study.engine import cores
from ravine.study.store import Store

__all__ = ["CLAIMS", "Budget", "Claim", "Evidence", "Finding", "Outcome", "Table", "Unfinished", "reproduce"]

PAPERS = (
    sutskever,
    goh,
    sato,
    jelassi,
    cowsik,
    andriushchenko,
    mustafa,
    chatterjee,
    adamomentum,
    efimov,
    signsgd,
    majority_vote,
    random_scaling,
    sgdf,
    sngm,
    memory,
    direction,
    adamp,
    early_momentum,
    local_sgd,
    diffusion,
    wang,
)
CLAIMS: Mapping[str, Claim] = {claim.name: claim for paper in PAPERS for claim in paper.CLAIMS}
"""Every claim by its name."""


FAILURES = (ValueError, RuntimeError, ArithmeticError, MemoryError)
"""What ends a claim and not the others; our errors are of the first two kinds, as those of torch, numpy and scipy."""


class Unfinished(WorkError):
    """Some claims could not be investigated. `results`: what `reproduce` found of the others."""

    def __init__(self, failures: Mapping[str, str], results: list[dict[str, Any]]) -> None:
        count = len(failures) + len(results)
        reasons = "; ".join(f"{name} ({reason})" for name, reason in failures.items())
        super().__init__(f"{len(failures)} of {count} claims could not be investigated: {reasons}")
        self.results = results


class _Silent:
    def phase(self, text: str) -> None: ...

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...


def reproduce(
    names: Sequence[str] = ("all",),
    budget: Budget = "quick",
    *,
    out: Path | str = "reproductions",
    workers: int | None = None,
    device: str | None = None,
    listener: Listener | None = None,
    fresh_pilot: bool = False,
) -> list[dict[str, Any]]:
    """Investigate claims and return their results, the contents of each result.json.

    Stored in OUT/BUDGET/CLAIM: result.json, index.html with its figures, and the runs. A claim that was broken off goes
    on where it stopped: every run that is stored is kept. OUT/BUDGET/index.html lists all claims that are there.

    budget: "quick" (minutes a claim on two cores), "evening" (about an hour) or "paper" (the paper's
    length); "all" are the claims that have it. fresh_pilot: search learning rates anew where some come with the
    package.
    Raises UserError for an unknown claim or budget, for a claim without this budget, and when data are not fetched;
    WorkError when the work fails.
    """
    if budget not in get_args(Budget):
        raise UserError(f"there is no budget {budget!r}: {hint(budget, get_args(Budget))}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = _chosen(names, budget)
    directory = Path(out) / budget
    results: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for name in chosen:
        try:
            results.append(_investigated(name, budget, directory, device, workers, listener or _Silent(), fresh_pilot))
        except FAILURES as error:
            if len(chosen) == 1:
                raise
            failures[name] = " ".join(str(error).split())
    page.write_index(_all_results(directory), directory, failures)
    if failures:
        raise Unfinished(failures, results)
    return results


def _chosen(names: Sequence[str], budget: Budget) -> list[str]:
    """The claims that are meant; of all, those that have the budget."""
    if "all" in names or not names:
        return [name for name, claim in CLAIMS.items() if budget in claim.plans]
    for name in names:
        if name not in CLAIMS:
            raise UserError(f"there is no claim {name!r}: {hint(name, CLAIMS, 'ravine list claims')}")
        if budget not in CLAIMS[name].plans:
            raise UserError(f"{name} has no budget {budget!r}: run it with --budget {' or '.join(CLAIMS[name].plans)}")
    return list(dict.fromkeys(names))


def _investigated(
    name: str,
    budget: Budget,
    directory: Path,
    device: str,
    workers: int | None,
    listener: Listener,
    fresh_pilot: bool,
) -> dict[str, Any]:
    """The result of a claim, stored with its page."""
    store = Store(directory / name)
    store.directory.mkdir(parents=True, exist_ok=True)
    with store.locked():
        laboratory = Laboratory(
            budget=budget,
            store=store,
            workers=workers or (1 if device == "cuda" else cores()),
            device=device,
            listener=listener,
            fresh_pilot=fresh_pilot,
        )
        laboratory.listener.phase(name)
        evidence = CLAIMS[name].investigate(laboratory)
        result = page.contents(CLAIMS[name], evidence, budget, {"machine": machine(device), "versions": versions()})
        store.write_json("result.json", result)
        page.write(result, evidence, store.directory)
    _tidy(store)
    return result


def _tidy(store: Store) -> None:
    """Takes away what an investigation needs only while it runs."""
    store.path(".lock").unlink(missing_ok=True)
    for folder in (store.checkpoints, store.runs_directory):
        if not any(folder.iterdir()):
            folder.rmdir()


def _all_results(directory: Path) -> list[dict[str, Any]]:
    """The results in a directory, in the order of `CLAIMS`."""
    files = (directory / name / "result.json" for name in CLAIMS)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
