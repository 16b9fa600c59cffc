"""Helpers of the tests of claims."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ravine.claims import laboratory, reproduce
from ravine.claims.laboratory import Arm
from ravine.claims.rows import DenseNets


class Counted:
    """A listener that notes what was trained."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...


def outcomes(result: Mapping[str, Any]) -> dict[str, str]:
    return {finding["statement"]: finding["outcome"] for finding in result["findings"]}


def assert_runs_through(name: str, out: Path) -> dict[str, Any]:
    """The claim comes to findings with intervals, and the index names it once; its result is returned."""
    (result,) = reproduce([name], out=out, workers=1)
    assert result["findings"]
    assert all(finding["interval"] is not None for finding in result["findings"])
    assert (out / "quick" / "index.html").read_text().count(f'href="{name}/index.html"') == 1
    return result


def assert_the_pilot_fits(problem: str, arms: Mapping[str, Callable[[float], Arm]], grid: Sequence[float]) -> None:
    """The pilot that comes with the package names all arms and rates of this problem; else quick would search on."""
    table = laboratory.committed_pilot(problem)
    if table is None:  # then quick searches itself
        return
    assert set(table) == set(arms)
    assert all(set(row) == {f"{rate:g}" for rate in grid} for row in table.values())


def dense_module(nets: DenseNets, row: Tensor) -> nn.Sequential:
    """The net of a row of `ravine.claims.rows`, made of torch's modules."""
    layers: list[nn.Module] = []
    place = 0
    for sources, units in pairwise(nets.sizes):
        layer = nn.Linear(sources, units)
        with torch.no_grad():
            layer.weight.copy_(row[place : place + sources * units].view(sources, units).T)
            layer.bias.copy_(row[place + sources * units : place + (sources + 1) * units])
        place += (sources + 1) * units
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
