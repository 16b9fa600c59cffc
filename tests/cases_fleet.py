"""Small problems for the tests of the fleet: one for each kind of layer and each field of a problem."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ravine import rules
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task
from ravine.fleet.train import Trial, Work
from ravine.metrics import accuracy
from ravine.problems import Problem, prepare

Make = Callable[[], nn.Module]


def rows(count: int, *shape: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % 3


def words(count: int) -> tuple[Tensor, Tensor]:
    """Sequences (count, 3) of 7 words."""
    return torch.randint(7, (count, 3), generator=torch.Generator().manual_seed(2)), torch.arange(count) % 3


def problem(model: Make, data: tuple[Any, Any] | None = None, **changes: Any) -> Problem:
    fields: dict[str, Any] = {
        "name": "case",
        "model": model,
        "loss": F.cross_entropy,
        "metrics": {"accuracy": accuracy},
        "train": data or rows(50, 4),
        "batch_size": 8,
        "steps": 20,
    }
    return Problem(**fields | changes)


def task(of: Problem, study_seed: int = 0) -> Task:
    return Task(of, prepare(of), study_seed, torch.device("cpu"))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


class Recurrent(nn.Module):
    """Words -> classes through a recurrent layer."""

    def __init__(self, kind: Callable[..., nn.RNNBase], **words: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layer = kind(4, 5, batch_first=True, **words)
        self.out = nn.Linear(5 * (2 if words.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.layer(self.embedding(x))
        return self.out(outputs[:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Words -> classes through torch's multi-head attention."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layer = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        attended, _ = self.layer(h, h, h, need_weights=False)
        return self.out(attended.mean(1))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Words -> words, with one matrix for the embedding and for the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x).mean(1))  # type: ignore[no-any-return]


class Doing(nn.Module):
    """A dense net whose hidden values go through `action(module, hidden)`; `level` is a buffer that starts at 1."""

    level: Tensor

    def __init__(self, action: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("level", torch.ones(()))
        self.unused = nn.Parameter(torch.ones(2))
        self.action = action

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.action(self, torch.tanh(self.first(x))))  # type: ignore[no-any-return]


def doing(action: Callable[[Any, Tensor], Tensor], **changes: Any) -> Problem:
    return problem(lambda: Doing(action), **changes)


class Scaled(nn.Module):
    """Takes whole pixels 0..255."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float() / 255)  # type: ignore[no-any-return]


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].requires_grad_(False)
    return net


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3))


def pixels() -> tuple[Tensor, Tensor]:
    return torch.randint(256, (50, 4), generator=torch.Generator().manual_seed(3)).to(torch.uint8), torch.arange(50) % 3


def batch_loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def as_dict() -> Problem:
    x, y = rows(50, 4)
    return Problem(name="dict", model=dense, batch_loss=batch_loss, train={"x": x, "y": y}, batch_size=8, steps=20)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Embedding(7, 4), layer, nn.Flatten(), nn.Linear(12, 3))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "dense": lambda: problem(dense),
    "conv": lambda: problem(conv, rows(50, 1, 6, 6)),
    "batch-norm-1d": lambda: problem(
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    ),
    "batch-norm-2d": lambda: problem(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)),
        rows(50, 1, 6, 6),
    ),
    "layer-norm": lambda: problem(lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3))),
    "embedding": lambda: problem(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3)), words(50)),
    "rnn": lambda: problem(lambda: Recurrent(nn.RNN, num_layers=2, nonlinearity="relu"), words(50)),
    "lstm": lambda: problem(lambda: Recurrent(nn.LSTM, bidirectional=True), words(50)),
    "gru": lambda: problem(lambda: Recurrent(nn.GRU, bias=False), words(50)),
    "attention": lambda: problem(Attention, words(50)),
    "transformer": lambda: problem(transformer, words(50)),
    "dropout": lambda: problem(lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 6), nn.Dropout(), nn.Linear(6, 3))),
    "tied": lambda: problem(Tied, (words(50)[0], words(50)[0][:, 0])),
    "frozen": lambda: problem(frozen),
    "unused": lambda: doing(lambda module, h: h, weight_decay=0.1),
    "dict": as_dict,
    "uint8": lambda: problem(Scaled, pixels()),
    "weight-decay": lambda: problem(dense, weight_decay=0.01),
    "clip": lambda: problem(dense, clip=0.1),
    "schedule": lambda: problem(dense, schedule=lambda step: 1 / (1 + step)),
    "full-batch": lambda: problem(dense, batch_size=50),
    "with-replacement": lambda: problem(dense, sampling="with-replacement"),
}


def columns(hyper: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [one[name] for one in hyper] for name in hyper[0]}


def settings(rule: str, count: int) -> list[dict[str, float]]:
    """Hyper-parameters of `count` runs, each run with its own."""
    defaults = {name: one.default or 0.0 for name, one in rules.get(rule).hyper.items()}
    varied = [{**defaults, "lr": 0.005 * (1 + run)} for run in range(count)]
    if "delta" in defaults:
        varied = [{**one, "delta": (0.5, 1.0, 2.0)[run % 3]} for run, one in enumerate(varied)]  # so that it projects
    if "momentum" in defaults:
        varied = [{**one, "momentum": 0.9 / (1 + run)} for run, one in enumerate(varied)]
    return varied


def stack(
    of: Task, rule: str, seeds: list[int], hyper: list[dict[str, float]], program: Program | None = None
) -> Stacked:
    return Stacked(program or Program(of), rules.get(rule), seeds, columns(hyper))


def alone(of: Task, rule: str, seed: int, hyper: dict[str, float]) -> Single:
    return Single(of, rules.get(rule), seed, hyper)


def work(
    executor: Any, steps: int = 20, rates: tuple[float, ...] = (0.01, 0.02, 0.05), test: bool = False, **words: Any
) -> Work:
    trials = tuple(Trial(k % 2, {"lr": rate, "momentum": 0.9}) for k, rate in enumerate(rates))
    return Work(**{"rule": "momentum", "trials": trials, "steps": steps, "test": test, "executor": executor, **words})
