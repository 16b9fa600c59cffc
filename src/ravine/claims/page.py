"""The report of claims: one page a claim with its figures beside it, and an index of all that were investigated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from ravine.claims.claim import Budget, Claim, Evidence
from ravine.report.theme import export

HERE = Path(__file__).parent
MARKS = {"reproduced": "✓", "not reproduced": "○", "contradicted": "✗"}


def contents(claim: Claim, evidence: Evidence, budget: Budget, about: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of an investigation: result.json. No clock times; `about` holds machine and versions."""
    return {
        "claim": claim.name,
        "sentence": claim.sentence,
        "source": claim.source,
        "budget": budget,
        "plan": claim.plans[budget],
        "command": f"ravine reproduce {claim.name} --budget {budget}",
        "outcome": evidence.outcome,
        "findings": [asdict(finding) for finding in evidence.findings],
        "tables": [asdict(table) for table in evidence.tables],
        "figures": {title: f"{_slug(title)}.svg" for title in evidence.figures},
        "notes": list(evidence.notes),
        **about,
    }


def write(result: Mapping[str, Any], evidence: Evidence, directory: Path) -> None:
    """The page of a claim, index.html, and its figures."""
    for title, chart in evidence.figures.items():
        export(chart, directory / result["figures"][title])
    _render("claim.html.jinja", directory / "index.html", result=result)


def write_index(results: Sequence[Mapping[str, Any]], directory: Path, failures: Mapping[str, str]) -> Path:
    """The index of the claims in a directory; `failures`: those that could not be investigated now, and why."""
    directory.mkdir(parents=True, exist_ok=True)
    return _render("index.html.jinja", directory / "index.html", results=results, failures=failures)


def shown(value: str | float | None) -> str:
    """A cell of a table: numbers to four digits."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.4g}"


def found(finding: Mapping[str, Any]) -> str:
    """A measurement with its interval and unit."""
    ends = finding["interval"]
    within = f" [{shown(ends[0])}, {shown(ends[1])}]" if ends else ""
    return f"{shown(finding['measured'])}{within} {finding['unit']}"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _render(template: str, path: Path, **words: Any) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "found": found, "mark": MARKS.__getitem__}
    path.write_text(environment.get_template(template).render(**words), encoding="utf-8")
    return path
