"""Sequence tasks with long delays: addition, multiplication and memorization, in both published encodings.

Hochreiter and Schmidhuber (1997) made the first of them; here they are as Martens and Sutskever (2011) and Sutskever,
Martens, Dahl and Hinton (2013) used them. Two encodings are published and give different error levels for a net that
learns nothing but its biases:

- "thesis": that of Sutskever's thesis and of the 2011 supplement;
- "release": that of the code that Sutskever released.

The length T can be any; the built-in problems have those of the 2013 paper. Its data were probably drawn anew for every
batch; here they are a fixed table of 50,000 sequences (`ROWS`), judged on others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ravine import init
from ravine.errors import UserError
from ravine.metrics import Metric
from ravine.problems.problem import Problem

Encoding = Literal["thesis", "release"]
UNITS = 100
BATCH_SIZE = 100
STEPS = 50_000
ROWS = 50_000  # training sequences
JUDGED = 1_000  # sequences in validation and in test
TOLERANCE = 0.04  # a predicted number is wrong if it is farther off


def addition(length: int = 80, encoding: Encoding = "thesis", rows: int = ROWS) -> Problem:
    """Addition: two marked numbers of a long sequence, to be added after the last; 100 tanh units, T = 80.

    Inputs (time, 2): a number from U(0, 1) at every step, and a marker. "thesis": the length T' is uniform in T to
    1.1 T, the marker is 1 at one of the first T'/10 steps and at one from there to T'/2, else 0; the target at the last
    step is *half* the sum. "release": T' is below 1.1 T, the marked steps are in [T/100, T/10) and [T/10, T/2), the
    marker is -1 at the first step and three before the end, and the target, one step after T', is the sum.

    Loss: squared error. Endpoint "wrong": share of sequences whose prediction is off by more than .04; predicting the
    mean alone gives .8464 (thesis) and .9216 (release), the paper reports .82.
    """
    return _numbers("addition", length, encoding, rows)


def multiplication(length: int = 80, encoding: Encoding = "thesis", rows: int = ROWS) -> Problem:
    """Multiplication: two marked numbers of a long sequence, to be multiplied after the last; 100 tanh units, T = 80.

    As `addition`, with the product as the target and with numbers from which their mean 1/2 is taken at the input (they
    are all positive). Predicting the mean alone gives .8888 in both encodings, the paper reports .84.
    """
    return _numbers("multiplication", length, encoding, rows)


def memorize_5(length: int = 200, encoding: Encoding = "thesis") -> Problem:
    """Memorization of 5 bits over T = 200 steps; 100 tanh units. All 32 sequences are in every batch.

    See `memorize`. Outputs that depend on no input give 5 wrong symbols (thesis) and 2.5 (release); the paper says 2.5.
    """
    return memorize("memorize-5", symbols=2, count=5, length=length, encoding=encoding, rows=None)


def memorize_20(length: int = 80, encoding: Encoding = "thesis", rows: int = ROWS) -> Problem:
    """Memorization of ten symbols out of five ("20 bits") over T = 80 steps; 100 tanh units.

    See `memorize`. Outputs that depend on no input give 10 wrong symbols (thesis) and 8 (release); the paper says 8.
    """
    return memorize("memorize-20", symbols=5, count=10, length=length, encoding=encoding, rows=rows)


def memorize(name: str, *, symbols: int, count: int, length: int, encoding: Encoding, rows: int | None) -> Problem:
    """`count` symbols are shown one by one, then blanks, then a trigger; then they are to be repeated in order.

    Inputs (time,) are numbers of symbols, one-hot inside the net; targets (time,) are blank until the last `count`
    steps; the trigger comes one step before these. "thesis": `length` blanks and trigger between, with a blank and a
    trigger symbol of their own. "release": `length` steps in all, and the blank *is* the last data symbol, the trigger
    the one before it, which makes the task smaller.

    rows: training sequences; None: all sequences that there are, in training and judgement. Loss: cross-entropy, summed
    over the steps, mean over sequences. Endpoint "wrong symbols": their mean number in a sequence (the paper's entries
    are such counts); "wrong in recall" counts the last steps alone.
    """
    _check(name, encoding, length, least=2 * count + 2 if encoding == "release" else 1)
    thesis = encoding == "thesis"
    code = _Code(
        symbols, count, steps=length + 2 * count if thesis else length, blank=symbols if thesis else symbols - 1
    )
    trigger = symbols + 1 if thesis else symbols - 2
    kinds = symbols + 2 if thesis else symbols

    if rows is None:
        places = symbols ** torch.arange(count)
        every = torch.arange(symbols**count).unsqueeze(1) // places % symbols
        train = validation = test = code.sequences(every, trigger)
    else:
        drawn = (
            torch.randint(symbols, (n, count), generator=_generator(k)) for k, n in enumerate((rows, JUDGED, JUDGED))
        )
        train, validation, test = (code.sequences(data, trigger) for data in drawn)
    mean = F.one_hot(train[1], code.classes).double()
    return Problem(
        name=f"{name} ({encoding}, T = {length})",
        model=lambda: _started(Tagger(kinds, code.classes), 0.1, mean),
        loss=symbol_loss,
        train=train,
        validation=validation,
        test=test,
        metrics={
            "wrong symbols": Metric(wrong_symbols, higher_is_better=False, worst=float(code.steps)),
            "wrong in recall": Metric(
                lambda outputs, targets: wrong_symbols(outputs[..., -count:], targets[:, -count:]),
                higher_is_better=False,
                worst=float(count),
            ),
        },
        batch_size=BATCH_SIZE,
        steps=STEPS,
    )


@dataclass(frozen=True)
class _Code:
    """How the sequences of a memorization task are written."""

    symbols: int
    count: int
    steps: int
    blank: int

    @property
    def classes(self) -> int:
        return max(self.symbols, self.blank + 1)

    def sequences(self, data: Tensor, trigger: int) -> tuple[Tensor, Tensor]:
        """Inputs (rows, steps) uint8 and targets (rows, steps) int64 of data (rows, count)."""
        inputs = torch.full((len(data), self.steps), self.blank)
        targets = inputs.clone()
        inputs[:, : self.count] = data
        inputs[:, -(self.count + 1)] = trigger
        targets[:, -self.count :] = data
        return inputs.to(torch.uint8), targets


def symbol_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (rows, classes, time) and targets (rows, time): summed over time, mean over rows."""
    return F.cross_entropy(outputs, targets, reduction="sum") / len(targets)


def wrong_symbols(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean number of wrong symbols in a sequence, of outputs (rows, classes, time) and targets (rows, time)."""
    return (outputs.argmax(1) != targets).to(outputs.dtype).sum(1).mean()


def _numbers(task: Literal["addition", "multiplication"], length: int, encoding: Encoding, rows: int) -> Problem:
    _check(task, encoding, length, least=10)
    write = _thesis_sequences if encoding == "thesis" else _release_sequences
    train, validation, test = (_written(task, write, n, length, k) for k, n in enumerate((rows, JUDGED, JUDGED)))
    return Problem(
        name=f"{task} ({encoding}, T = {length})",
        model=lambda: _started(Regressor(), 0.001, train[1][:, :1]),
        loss=number_loss,
        train=train,
        validation=validation,
        test=test,
        metrics={"wrong": Metric(wrong_numbers, higher_is_better=False, worst=1.0, bounded=True)},
        batch_size=BATCH_SIZE,
        steps=STEPS,
    )


Writer = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor, Tensor, Tensor, float]]
"""(rows, length, generator) -> inputs, the two marked steps, the step of the target, and the factor of the sum."""


def _written(task: str, write: Writer, rows: int, length: int, key: int) -> tuple[Tensor, Tensor]:
    """Inputs (rows, time, 2) and targets (rows, 2): the number, and the step at which it is due."""
    inputs, first, second, last, factor = write(rows, length, _generator(key))
    a, b = (inputs[torch.arange(rows), step, 0] for step in (first, second))
    number = factor * (a + b) if task == "addition" else a * b
    if task == "multiplication":
        seen = torch.arange(inputs.shape[1]) <= last.unsqueeze(1)
        inputs[..., 0] -= 0.5 * seen
    return inputs, torch.stack([number, last.to(number.dtype)], dim=1)


def _thesis_sequences(
    rows: int, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    longest = 11 * length // 10
    steps = _whole(torch.full((rows,), length), torch.full((rows,), longest + 1), generator)
    first = _whole(torch.zeros_like(steps), steps // 10, generator)
    second = _whole(steps // 10, steps // 2, generator)
    inputs = torch.rand(rows, longest, 2, generator=generator)
    inputs[..., 0] *= torch.arange(longest) < steps.unsqueeze(1)
    inputs[..., 1] = _marks(longest, (first, 1.0), (second, 1.0))
    return inputs, first, second, steps - 1, 0.5


def _release_sequences(
    rows: int, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    def between(low: float, high: float) -> Tensor:
        least, most = (torch.full((rows,), round(end * length)) for end in (low, high))
        return _whole(least, most, generator)

    last, first, second = between(1, 1.1), between(0.01, 0.1), between(0.1, 0.5)
    longest = round(1.1 * length)
    inputs = torch.rand(rows, longest, 2, generator=generator)
    inputs[..., 1] = _marks(longest, (torch.zeros_like(last), -1.0), (first, 1.0), (second, 1.0), (last - 3, -1.0))
    return inputs, first, second, last, 1.0


def _whole(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers, uniform in [low, high), each row with its own ends."""
    share = torch.rand(len(low), dtype=torch.float64, generator=generator)
    return low + (share * (high - low)).long()


def _marks(longest: int, *marked: tuple[Tensor, float]) -> Tensor:
    marks = torch.zeros(len(marked[0][0]), longest)
    for step, value in marked:
        marks.scatter_(1, step.unsqueeze(1), value)
    return marks


def _due(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions (rows,) at the steps at which they are due, and the numbers; outputs (rows, time)."""
    return outputs.gather(1, targets[:, 1:].long()).squeeze(1), targets[:, 0]


def number_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error at the steps that are due; outputs (rows, time), targets (rows, 2): number and step."""
    predicted, numbers = _due(outputs, targets)
    return (predicted - numbers).square().mean()


def wrong_numbers(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of predictions that are off by more than .04; shapes as in `number_loss`."""
    predicted, numbers = _due(outputs, targets)
    return ((predicted - numbers).abs() > TOLERANCE).to(outputs.dtype).mean()


class Regressor(nn.Module):
    """A tanh net with a linear output: inputs (rows, time, 2) -> outputs at every step (rows, time)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.RNN(2, UNITS, batch_first=True)
        self.output = nn.Linear(UNITS, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.hidden(inputs)
        outputs: Tensor = self.output(states)
        return outputs.squeeze(2)


class Tagger(nn.Module):
    """A tanh net with logits at every step: numbers of symbols (rows, time) -> (rows, classes, time)."""

    one_hot: Tensor

    def __init__(self, kinds: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.RNN(kinds, UNITS, batch_first=True)
        self.output = nn.Linear(UNITS, classes)
        self.register_buffer("one_hot", torch.eye(kinds))

    def forward(self, symbols: Tensor) -> Tensor:
        states, _ = self.hidden(F.embedding(symbols.long(), self.one_hot))
        outputs: Tensor = self.output(states)
        return outputs.transpose(1, 2)


def _started(net: nn.Module, input_scale: float, targets: Tensor) -> nn.Module:
    """The paper's initialization (Table 4), the output's bias at the mean of the targets."""
    return init.echo_state_(net, input_scale=input_scale, targets=targets)


def _generator(key: int) -> torch.Generator:
    return torch.Generator().manual_seed(key)


def _check(name: str, encoding: str, length: int, least: int) -> None:
    if encoding not in ("thesis", "release"):
        raise UserError(f"{name}: encoding= must be 'thesis' or 'release', not {encoding!r}")
    if not isinstance(length, int) or isinstance(length, bool) or length < least:
        raise UserError(f"{name}: length= must be a whole number of at least {least}, not {length!r}")
