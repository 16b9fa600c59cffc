"""A problem made ready for training: data on the device, loss and metrics as modules, what a run starts from."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ravine.fleet import draws
from ravine.fleet.keys import generator, global_states, key, seeded
from ravine.problems import Data, Problem, Split
from ravine.schedules import ExponentialScale

Batch = Any  # a pytree of tensors with equally many rows
PIECE = 512  # rows that are evaluated at once
TRAIN_ROWS = 1024  # training rows on which initial and final loss are taken


class TrainingLoss(nn.Module):
    """batch -> the loss that is minimized, the model inside; with `copies`, the model gets a copy of the batch."""

    def __init__(self, problem: Problem, model: nn.Module, copies: bool = False) -> None:
        super().__init__()
        self.model = model
        self._problem, self._copies = problem, copies

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss over the batch, a scalar."""
        return self._problem.loss_on(self.model, self._given(batch))

    def _given(self, batch: Batch) -> Batch:
        return pytree.tree_map(torch.clone, batch) if self._copies else batch


class Evaluation(TrainingLoss):
    """batch -> (1 + metrics,): the loss and every metric as means over the batch, float64."""

    def forward(self, batch: Batch) -> Tensor:
        """The means, in the order of `Task.names`."""
        values = self._problem.evaluate(self.model, self._given(batch)).values()
        return torch.stack([value.to(torch.float64) for value in values])


@dataclass(frozen=True)
class Start:
    """What a run starts from: parameters that it trains, and all else the model carries (frozen ones, buffers)."""

    parameters: dict[str, Tensor]
    carried: dict[str, Tensor]


@dataclass(frozen=True)
class Habits:
    """What a pass of the model does beside computing, found by watching one.

    `draws`: the draws that it asks for, in order. `unkeyed`: it also draws what cannot be supplied, only seeded.
    `writes`: it changes its batch in place. `idle`: parameters that the backward pass gives no gradient; `slope`: the
    norm of all gradients (both of a training pass).
    """

    draws: tuple[draws.Spec, ...]
    unkeyed: bool
    writes: bool
    idle: frozenset[str] = frozenset()
    slope: float = 0.0

    def __post_init__(self) -> None:
        assert not (self.unkeyed and self.draws), "draws that are only seeded are not listed"


class Task:
    """One problem, one device, one study seed."""

    def __init__(self, problem: Problem, data: Data, study_seed: int, device: torch.device) -> None:
        self.problem, self.study_seed, self.device = problem, study_seed, device
        self.data = data.to(device)
        self._pieces: dict[str, list[tuple[int, Batch]]] = {}
        self.names = ("loss", *problem.metrics)
        self.batch_size = problem.batch_rows(data.train.rows)
        self.full_batch = self.batch_size == data.train.rows and problem.sampling == "shuffled"

    def model(self, seed: int) -> nn.Module:
        """The freshly initialized model of this run seed, the same for every method and configuration."""
        with seeded(key(self.study_seed, "init", seed), self.device):
            model = self.problem.build()
        return model.to(self.device)

    def training(self, model: nn.Module) -> TrainingLoss:
        """The loss of `model` that is minimized."""
        return TrainingLoss(self.problem, model, self.in_training.writes)

    def evaluation(self, model: nn.Module) -> Evaluation:
        """The judgement of `model`."""
        return Evaluation(self.problem, model, self.in_evaluation.writes)

    def start(self, seed: int) -> Start:
        """The tensors of `training(model(seed))`, tied ones once; what gets no gradient is carried, not trained."""
        module = self.training(self.model(seed))
        named = {name: parameter.detach() for name, parameter in module.named_parameters()}
        trained = {n for n, p in module.named_parameters() if p.requires_grad and n not in self.in_training.idle}
        carried = {name: tensor for name, tensor in named.items() if name not in trained}
        return Start(
            {name: tensor for name, tensor in named.items() if name in trained},
            {**carried, **{name: buffer.detach() for name, buffer in module.named_buffers()}},
        )

    def split(self, name: str) -> Split:
        """The rows of "validation" or "test", or the first 1,024 of "train"."""
        if name == "train":
            rows = min(TRAIN_ROWS, self.data.train.rows)
            return Split(rows, self.data.train.batch(slice(0, rows)))
        split: Split = getattr(self.data, name)
        return split

    def pieces(self, name: str) -> list[tuple[int, Batch]]:
        """A split in pieces (rows, batch) of equal size, but for the last, so that evaluation is bounded in memory."""
        if name not in self._pieces:
            split = self.split(name)
            size = math.ceil(split.rows / math.ceil(split.rows / PIECE))
            bounds = [(a, min(a + size, split.rows)) for a in range(0, split.rows, size)]
            self._pieces[name] = [(b - a, split.batch(slice(a, b))) for a, b in bounds]
        return self._pieces[name]

    def training_key(self, seed: int, step: int) -> int:
        """The key of the draws inside the model at a training step."""
        return key(self.study_seed, "draws", seed, step)

    def evaluation_key(self, piece: int) -> int:
        """The key of the draws inside the model at evaluation: the same for every run, method and step."""
        return key(self.study_seed, "evaluate", piece)

    def variate(self, name: str, seed: int, step: int) -> float:
        """What a run draws at a step for a hyper-parameter of its rule that is random: a variate of Exp(1)."""
        return ExponentialScale(key(self.study_seed, name, seed))(step)

    @contextlib.contextmanager
    def keyed(self, habits: Habits, number: int) -> Iterator[None]:
        """Inside it everything that a model of such habits draws comes from the stream of the key `number`."""
        if habits.unkeyed:
            with seeded(number, self.device):
                yield
        elif habits.draws:
            with draws.from_generator(generator(number), self.device):
                yield
        else:
            yield

    @cached_property
    def in_training(self) -> Habits:
        """Found on the first batch of data."""
        return self._watch(TrainingLoss, self.data.train.batch(slice(0, self.batch_size)))

    @cached_property
    def in_evaluation(self) -> Habits:
        """Found on the first piece of the validation rows."""
        return self._watch(Evaluation, self.pieces("validation")[0][1])

    def _watch(self, kind: type[TrainingLoss], batch: Batch) -> Habits:
        first = self._pass(kind, batch, 0)
        unkeyed = first.moved
        if first.draws and not unkeyed:
            # Checkpointing draws once more in the backward pass and puts the global generators back: then gradients
            # depend on them all the same, which another seed shows.
            again = self._pass(kind, batch, 1).results
            unkeyed = any((a - b).norm() > 1e-3 * a.norm() for a, b in zip(first.results, again, strict=True))
        return Habits(
            draws=() if unkeyed else first.draws,
            unkeyed=unkeyed,
            writes=first.writes,
            idle=first.idle,
            slope=math.hypot(*(gradient.norm().item() for gradient in first.results[1:])),
        )

    def _pass(self, kind: type[TrainingLoss], batch: Batch, seed: int) -> "_Pass":
        """A pass of a fresh model over a copy of `batch`, the global generators started from `seed`."""
        training, batch = kind is TrainingLoss, pytree.tree_map(torch.clone, batch)
        module = kind(self.problem, self.model(0)).train(training)
        seen: list[draws.Spec] = []
        with seeded(seed, self.device), torch.set_grad_enabled(training):
            before = global_states(self.device)
            with draws.from_generator(generator(0), self.device, seen):
                value = module(batch)
                if training:
                    value.backward()
            moved = global_states(self.device) != before
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()} if training else {}
        return _Pass(
            draws=tuple(seen),
            moved=moved,
            writes=any(leaf._version > 0 for leaf in pytree.tree_leaves(batch)),
            idle=frozenset(name for name, gradient in gradients.items() if gradient is None),
            results=[value.detach(), *(gradient for gradient in gradients.values() if gradient is not None)],
        )


@dataclass(frozen=True)
class _Pass:
    """What happened in a pass. `moved`: a global generator was drawn from; `results`: the value and all gradients."""

    draws: tuple[draws.Spec, ...]
    moved: bool
    writes: bool
    idle: frozenset[str]
    results: list[Tensor]
