"""Fine-tuning a language model: SGD, SGDM and Adam on a pre-trained encoder of sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ravine import optim
from ravine.claims import criteria
from ravine.claims.charts import figure, line
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, every_seed
from ravine.claims.wang.shared import MOMENTUM, PAPER
from ravine.fleet.keys import seeded
from ravine.problems.minilm import pretrained, tokens, vocabulary
from ravine.problems.quotes import quotes
from ravine.schedules import Polynomial


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning on `each` sentences of either label, judged on `tests` of either, about other films.

    pilots: seeds that choose learning rates.
    """

    each: int
    steps: int
    seeds: int
    pilots: int = 1
    tests: int = 500

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.each} sentences of either label, {self.steps:,} steps, {self.seeds} seeds"


TUNINGS: Mapping[Budget, tuple[Tuning, ...]] = {
    "evening": (Tuning(512, 192, 5),),
    "paper": (Tuning(16, 200, 20, pilots=3), Tuning(512, 1_000, 20, pilots=3)),
}
BATCH = 16
LENGTH = 48  # tokens: all but one sentence in a hundred are shorter
CLOSE = 0.02  # test errors that differ by less count as equal: two seeds differ by about .01
Make = Callable[[Iterator[nn.Parameter], Polynomial], torch.optim.Optimizer]
METHODS: Mapping[str, tuple[Make, Sequence[float]]] = {
    "SGD": (lambda parameters, lr: optim.SGD(parameters, lr=lr), (0.03, 0.1, 0.3, 1.0)),
    "SGDM": (
        lambda parameters, lr: optim.Momentum(parameters, lr=lr, momentum=MOMENTUM, form="ema"),
        (0.03, 0.1, 0.3, 1.0),
    ),
    "Adam": (lambda parameters, lr: optim.Adam(parameters, lr=lr), (0.0001, 0.0003, 0.001)),
}
Sentences = tuple[Tensor, Tensor]


class Films:
    """Sentences about films as tokens and labels; a quarter of the films is only for judging."""

    def __init__(self) -> None:
        self._quotes, self._known = quotes(), vocabulary()
        films = sorted(set(self._quotes.films))
        order = torch.randperm(len(films), generator=torch.Generator().manual_seed(0)).tolist()
        self._judging = {films[place] for place in order[: len(films) // 4]}
        self._training = set(films) - self._judging

    def training(self, each: int, seed: int) -> Sentences:
        """`each` sentences of either label, a draw a seed."""
        return self._drawn(self._training, each, seed)

    def judging(self, each: int) -> Sentences:
        """`each` sentences of either label, always the same."""
        return self._drawn(self._judging, each, 0)

    def _drawn(self, films: set[str], each: int, seed: int) -> Sentences:
        sentences, labels = self._quotes.of(films, each, torch.Generator().manual_seed(seed))
        return tokens(sentences, self._known, LENGTH), labels


def fine_tuned(films: Films, method: str, rate: float, seed: int, tuning: Tuning, device: str) -> float:
    """The share of wrong test sentences after fine-tuning all weights; 1 if it diverged. The rate falls to 0."""
    x, y = (part.to(device) for part in films.training(tuning.each, seed))
    with seeded(seed, torch.device(device)):
        encoder = pretrained()
        model = nn.Sequential(encoder, nn.Linear(encoder.norm.normalized_shape[0], 2)).to(device)
        optimizer = METHODS[method][0](model.parameters(), Polynomial(rate, 0.0, tuning.steps))
        rows: list[int] = []
        for _ in range(tuning.steps):
            if len(rows) < min(BATCH, len(x)):
                rows = torch.randperm(len(x)).tolist()
            batch, rows = rows[:BATCH], rows[BATCH:]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            if not loss.isfinite():
                return 1.0
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        parts = zip(*(torch.split(part.to(device), 100) for part in films.judging(tuning.tests)), strict=True)
        wrong = torch.cat([model(inputs).argmax(1) != labels for inputs, labels in parts])
    return float(wrong.double().mean())


def language_model(laboratory: Laboratory) -> Evidence:
    """SGD, SGDM and Adam on a pre-trained encoder of sentences, each at its best rate."""
    films = Films()
    findings: list[Finding] = []
    rows: list[Sequence[Cell]] = []
    figures = {}
    for tuning in TUNINGS[laboratory.budget]:

        def error(method: str, rate: float, seed: int, tuning: Tuning = tuning) -> float:
            name = f"{method}, lr {rate:g}, {tuning.words}, seed {seed}"

            def compute() -> float:
                laboratory.listener.phase(name)
                return fine_tuned(films, method, rate, seed, tuning, laboratory.device)

            return laboratory.kept(name, compute)

        seeds = every_seed(tuning.pilots, tuning.seeds)
        errors, parts = {}, []
        for method, (_, rates) in METHODS.items():
            pilot = [
                sum(error(method, rate, seed) for seed in seeds[: tuning.pilots]) / tuning.pilots for rate in rates
            ]
            best = rates[int(np.argmin(pilot))]
            errors[method] = [error(method, best, seed) for seed in seeds[tuning.pilots :]]
            parts.append(line(method, rates, pilot))
            rows.append([f"{tuning.each}", method, shown(errors[method]), best])
        findings.append(
            criteria.equal(
                f"{tuning.each} sentences of either label: SGD is as good as SGDM, each at its best rate",
                errors["SGD"],
                errors["SGDM"],
                CLOSE,
                ERROR,
            )
        )
        figures[f"Test error against the learning rate, {tuning.each} sentences of either label"] = figure(
            parts, "Test error of the pilot against the learning rate", "learning rate", "test error", log_x=True
        )
    table = Table("Fresh or rotten", ["sentences of either label", "", "test error", "its best rate"], rows)
    notes = [
        "The model is MiniLM (22.6 million weights, 6 layers, all trained, no dropout) with a new linear layer on its "
        "mean; the sentences are of film reviews, and no film is in both training and judging.",
        f"Batches of {BATCH}, the rate falls to 0 in a line. The figures show the mean over other seeds "
        f"({tuning.pilots}), which choose the rates; equal is within {CLOSE:g}.",
        "The paper fine-tuned RoBERTa-large by prompts, on 16 and 512 sentences of a label; its numbers are not known "
        "to us. Adam is beside them for comparison: nothing is claimed of it.",
    ]
    return Evidence(findings, [table], figures, notes)


CLAIMS = (
    Claim(
        name="wang-language-model",
        sentence="Fine-tuning a language model, tuned SGD is as good as SGDM.",
        source=f"{PAPER}, experiments on fine-tuning",
        plans={
            budget: "MiniLM on sentences about films: " + "; ".join(tuning.words for tuning in tunings)
            for budget, tunings in TUNINGS.items()
        },
        investigate=language_model,
    ),
)
