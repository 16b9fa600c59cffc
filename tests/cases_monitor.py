"""Training loops with known curvature and noise, a clock that a test moves, and tables with known answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from ravine.monitor import budget, probes
from ravine.monitor.records import STEPS


@dataclass
class Clock:
    """Stands for the module `time`: time passes where a test says so, and `look` at every reading of the clock."""

    now: float = 0.0
    look: float = 0.0

    def perf_counter(self) -> float:
        self.now += self.look
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (budget, probes):
        monkeypatch.setattr(module, "time", found)
    return found


@dataclass
class Quadratic:
    """The mean over rows of (s_j w_j)^2 / 2, each row one j: the Hessian is diag(curvatures), the minimum 0."""

    curvatures: Sequence[float]
    copies: int = 2
    model: nn.Linear = field(init=False)
    batch: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        d = len(self.curvatures)
        scales = (d * torch.tensor(self.curvatures, dtype=torch.float64)).sqrt()
        x = torch.diag(scales).repeat(self.copies, 1)
        self.model = nn.Linear(d, 1, bias=False).double()
        with torch.no_grad():
            self.model.weight.fill_(1.0)
        self.batch = (x, torch.zeros(len(x), 1, dtype=torch.float64))

    @staticmethod
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean() / 2

    def backward(self, noise: float = 0.0) -> None:
        """The gradient, with noise in the targets that is new at each step."""
        x, y = self.batch
        self.model.zero_grad()
        self.loss(self.model(x), y + noise * torch.randn_like(y)).backward()  # type: ignore[no-untyped-call]


def train(case: Quadratic, optimizer: torch.optim.Optimizer, steps: int, clock: Clock, noise: float = 0.0) -> None:
    """Steps of ten milliseconds."""
    torch.manual_seed(0)
    for _ in range(steps):
        case.backward(noise)
        clock.now += 0.01
        optimizer.step()


def table(rows: int = 200, **given: Any) -> pl.DataFrame:
    """A table of steps, step 1 to `rows`, of heavy-ball momentum .9 at lr .1 with white noise, but for what is given.

    A function gives the value of a column by the place of the row.
    """
    usual: dict[str, Any] = {
        "seconds": lambda k: 0.01 * (k + 1),
        "overhead_seconds": lambda k: 0.0001 * (k + 1),
        "lr": 0.1,
        "momentum": 0.9,
        "limit": 38.0,
        "gradient_norm": 1.0,
        "update_norm": 0.01,
        "weight_norm": 1.0,
        "average_norm": (0.1 / 1.9) ** 0.5,
        "memory": 0.9,
        "averaged": lambda k: k + 1,
        "update_cosine": 0.9,
        "velocity_gradient_cosine": 0.0,
        "unmoved": 0.0,
    }
    usual |= given
    columns: dict[str, list[object]] = {"step": list(range(1, rows + 1))}
    for name in STEPS:
        if name != "step":
            value = usual.get(name)
            columns[name] = [value(k) if callable(value) else value for k in range(rows)]
    return pl.DataFrame(columns | {k: v for k, v in given.items() if k == "step"}, schema=STEPS)


def bitwise(value: object) -> object:
    """A state dict with its tensors as bytes, to compare to the bit."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().reshape(-1).contiguous()
        return str(value.dtype), tuple(value.shape), flat.view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: bitwise(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bitwise(item) for item in value]
    return value
