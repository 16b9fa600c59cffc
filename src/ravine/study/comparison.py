"""A finished study: its verdicts, its runs, its report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ravine.study import runner
from ravine.study.store import Store


@dataclass(frozen=True)
class Comparison:
    """A finished study."""

    directory: Path

    @property
    def verdict(self) -> dict[str, Any]:
        """The content of `verdict.json`."""
        return self._store.read_json("verdict.json")

    @property
    def verdicts(self) -> dict[str, str]:
        """method -> its verdict against the baseline."""
        found = self.verdict
        return {one["method"]: one["verdict"] for one in found["contrasts"] if one["versus"] == found["baseline"]}

    @property
    def runs(self) -> pl.DataFrame:
        """Every run, one row each; curves are lists (docs/compare.md names the columns).

        Raises WorkError if a stored file is damaged.
        """
        return runner.all_runs(self._store)

    @property
    def cost(self) -> dict[str, dict[str, float]]:
        """method -> gradient equivalents and seconds of a step of a run trained alone; empty if not measured."""
        return self._store.read_json("cost.json") if self._store.path("cost.json").exists() else {}

    def report(self, path: Path | str | None = None) -> Path:
        """Writes the report from what is stored; to `report.html` of the study unless a path is given."""
        from ravine import report  # here, so that workers need not load what draws charts

        target = self._store.path("report.html") if path is None else Path(path)
        aside = target.with_name(f".{target.name}.writing")
        report.write(self.verdict, self.runs, self._store.read_json("study.json"), self.cost, aside)
        return aside.replace(target)

    @property
    def _store(self) -> Store:
        return Store.open(self.directory)
