"""Does momentum pay more when workers average rarely? A question that no paper has settled.

Local SGD (Stich 2019): workers train alone and average their nets every H updates; H = 1 is the averaging of gradients.
With momentum, each worker has its own velocity, and velocities are averaged too (Yu, Jin and Yang 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ravine.claims import crew, criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.crew import Scale, Tuned
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, rows_of_digits
from ravine.claims.rows import Descent

MOMENTUM = 0.9  # heavy-ball form
SGD_RATES = tuple(0.1 * 2**k for k in range(6))
RATES: Mapping[float, Sequence[float]] = {0.0: SGD_RATES, MOMENTUM: tuple(rate / 10 for rate in SGD_RATES)}
SPLITS: Mapping[str, bool] = {"all digits with every worker": False, "other digits with each worker": True}
"""What a worker sees, and whether the rows are sorted by their digit before they are dealt out."""


@dataclass(frozen=True)
class Local:
    """The crew, and how many updates lie between two averages; the last is the rarest."""

    crew: Scale
    periods: tuple[int, ...]

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.crew.words}, averages every {', '.join(map(str, self.periods))}"


SCALES: Mapping[Budget, Local] = {
    "quick": Local(Scale(8, 384, 8, 10, 2), (1, 8, 64)),
    "evening": Local(Scale(8, 2_048, 16, 20, 4), (1, 4, 16, 64, 256)),
}


def local(starts: Tensor, lr: Tensor, batches: Tensor, *, period: int, momentum: float, split: bool = False) -> Tensor:
    """A `crew.Method`: momentum in each worker, and averages of nets and velocities every `period` updates.

    Returns the average of the workers' nets. split: each worker sees its share of the rows sorted by their digit.
    """
    runs, workers = batches.shape[1:3]
    start = starts.unsqueeze(1).expand(-1, workers, -1).flatten(0, 1)
    descent = Descent("momentum", start, lr=lr.repeat_interleave(workers), momentum=momentum)
    own = (descent.rows, descent.state["momentum_buffer"])
    for step, index in enumerate(shares(batches) if split else batches):
        nets = descent.rows.view(runs, workers, -1)
        descent.step(crew.slopes(nets, index).flatten(0, 1))
        if (step + 1) % period == 0:
            for each in own:
                of_all = each.view(runs, workers, -1)
                of_all.copy_(of_all.mean(1, keepdim=True).expand_as(of_all))
    return descent.rows.view(runs, workers, -1).mean(1)


def shares(batches: Tensor) -> Tensor:
    """The same draws (..., workers, rows), those of each worker within its share of the rows sorted by their digit."""
    (_, targets), _ = rows_of_digits()
    workers = batches.shape[-2]
    size = len(targets) // workers
    places = batches % size + size * torch.arange(workers).unsqueeze(1)
    return targets.argsort(stable=True)[places]


def investigate(laboratory: Laboratory) -> Evidence:
    """Both data splits, all periods, with and without momentum, each at its own best learning rate."""
    scale = SCALES[laboratory.budget]
    found = {
        (name, period, momentum): crew.tuned(
            partial(local, period=period, momentum=momentum, split=split), rates, scale.crew
        )
        for name, split in SPLITS.items()
        for period in scale.periods
        for momentum, rates in RATES.items()
    }
    findings = [one for name in SPLITS for one in _findings(name, found, scale)]
    rows: list[Sequence[Cell]] = [
        [name, period, momentum, one.rate, shown(one.loss), shown(one.error)]
        for (name, period, momentum), one in found.items()
    ]
    columns = ["data", "updates between averages", "momentum", "learning rate", "training loss", "test error"]
    table = Table(f"{scale.crew.workers} workers, {scale.crew.steps:,} updates", columns, rows)
    chart = figure(
        [
            series(
                name.partition(" with")[0], scale.periods, [_ratios(found, name, period) for period in scale.periods]
            )
            for name in SPLITS
        ],
        "Training loss with momentum by that without, against the number of updates between averages",
        "updates between averages",
        "loss with momentum / loss without",
        log_x=True,
        log_y=True,
    )
    notes = [
        "The learning rate is the best of six by training loss, on other seeds, for each period with and without "
        f"momentum {MOMENTUM:g}, in heavy-ball form. Losses and errors are those of the averaged net.",
        *(
            f"{name}, period {period}, momentum {momentum:g}: the best learning rate, {one.rate:g}, is at an edge."
            for (name, period, momentum), one in found.items()
            if one.edge
        ),
    ]
    return Evidence(findings, [table], {"What momentum gains": chart}, notes)


Found = Mapping[tuple[str, int, float], Tuned]


def _ratios(found: Found, name: str, period: int) -> list[float]:
    """Training loss with momentum by that without, by seed."""
    pairs = zip(found[name, period, MOMENTUM].loss, found[name, period, 0.0].loss, strict=True)
    return [with_ / without for with_, without in pairs]


def _excess(found: Found, name: str, period: int) -> list[float]:
    """Test error with momentum less that without, by seed."""
    pairs = zip(found[name, period, MOMENTUM].error, found[name, period, 0.0].error, strict=True)
    return [with_ - without for with_, without in pairs]


def _findings(name: str, found: Found, scale: Local) -> Iterator[Finding]:
    often, rarely = scale.periods[0], scale.periods[-1]
    for period in scale.periods:
        yield criteria.lower(
            f"{name}: momentum lowers the training loss with averages every {period}",
            found[name, period, MOMENTUM].loss,
            found[name, period, 0.0].loss,
        )
    yield criteria.lower(
        f"{name}: it lowers it by a larger factor every {rarely} than every {often}",
        _ratios(found, name, rarely),
        _ratios(found, name, often),
    )
    yield criteria.less(
        f"{name}: it lowers the test error by more every {rarely} than every {often}",
        _excess(found, name, rarely),
        _excess(found, name, often),
        ERROR,
    )


CLAIMS = (
    Claim(
        name="local-sgd",
        sentence="Momentum pays, and pays more the more rarely workers average their nets.",
        source="an open question; local SGD as of Stich 2019 (arXiv 1805.09767), momentum in it as of Yu, Jin and Yang "
        "2019 (arXiv 1905.03817)",
        plans={budget: scale.words for budget, scale in SCALES.items()},
        investigate=investigate,
    ),
)
