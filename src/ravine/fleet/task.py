"""A problem made ready for training: its data on the device, its loss and metrics as modules, what every run starts from."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ravine.fleet import draws
from ravine.fleet.keys import key, torch_generator
from ravine.problems import Data, Problem, Split

Batch = Any  # a pytree of tensors with equally many rows


class TrainingLoss(nn.Module):
    """batch -> the loss that is minimized, the model inside in training mode."""

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._problem = problem

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss over the batch, a scalar."""
        return self._problem.loss_on(self.model, batch)


class Evaluation(TrainingLoss):
    """batch -> (1 + metrics,): the loss and every metric as means over the batch."""

    def forward(self, batch: Batch) -> Tensor:
        """The means, in the order of `Task.names`."""
        values = self._problem.evaluate(self.model, batch).values()
        return torch.stack([value.to(torch.float64) for value in values])


@dataclass(frozen=True)
class Start:
    """What a run starts from: trainable parameters, and everything else that the model carries (frozen ones, buffers)."""

    parameters: dict[str, Tensor]
    carried: dict[str, Tensor]


@dataclass(frozen=True)
class Randomness:
    """What the model draws in one training pass: `specs` in order; `unkeyed` draws can only be seeded, not supplied."""

    specs: tuple[draws.Spec, ...]
    unkeyed: bool

    def __bool__(self) -> bool:
        return self.unkeyed or bool(self.specs)


class Task:
    """One problem, one device, one study seed."""

    def __init__(self, problem: Problem, data: Data, study_seed: int, device: torch.device) -> None:
        self.problem, self.study_seed, self.device = problem, study_seed, device
        self.data = data.to(device)
        self._pieces: dict[str, list[tuple[int, Batch]]] = {}
        self.names = ("loss", *problem.metrics)
        self.batch_size = min(problem.batch_size, data.train.rows)
        self.full_batch = self.batch_size == data.train.rows and problem.sampling == "shuffled"

    def model(self, seed: int) -> nn.Module:
        """The freshly initialized model of this run seed, the same for every method and configuration."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(self.study_seed, "init", seed))
            model = self.problem.build()
        return model.to(self.device)

    def start(self, seed: int) -> Start:
        """The tensors of `TrainingLoss(model(seed))`, detached copies, tied ones once."""
        module = TrainingLoss(self.problem, self.model(seed))
        trained = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
        frozen = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
        return Start(trained, {**frozen, **{n: b.detach().clone() for n, b in module.named_buffers()}})

    def split(self, name: str) -> Split:
        """"validation", "test", or "train": the first 1,024 training rows, on which initial and final loss are taken."""
        if name == "train":
            rows = min(1024, self.data.train.rows)
            return Split(rows, pytree.tree_map(lambda leaf: leaf[:rows], self.data.train.tensors))
        split: Split = getattr(self.data, name)
        return split

    def pieces(self, name: str) -> list[tuple[int, Batch]]:
        """A split in pieces of equal size (but the last) of at most 512 rows, so that evaluation is bounded in memory."""
        if name not in self._pieces:
            split = self.split(name)
            size = math.ceil(split.rows / math.ceil(split.rows / 512))
            bounds = [(a, min(a + size, split.rows)) for a in range(0, split.rows, size)]
            self._pieces[name] = [
                (b - a, pytree.tree_map(lambda leaf, a=a, b=b: leaf[a:b], split.tensors)) for a, b in bounds
            ]
        return self._pieces[name]

    def step_generator(self, seed: int, step: int) -> torch.Generator:
        """The stream of the draws inside the model at a training step."""
        return torch_generator(self.study_seed, "draws", seed, step)

    def evaluation_key(self, piece: int) -> int:
        """The key of the draws inside the model at evaluation: the same for every run, method and step."""
        return key(self.study_seed, "evaluate", piece)

    @cached_property
    def randomness(self) -> Randomness:
        """Found by running one training pass and watching which draws it asks for and whether torch's own generator moved."""
        module = TrainingLoss(self.problem, self.model(0)).train()
        batch = self.data.train.batch(torch.arange(self.batch_size, device=self.device))
        seen: list[draws.Spec] = []
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            with draws.from_generator(self.step_generator(0, 0), self.device, self.float_dtype, seen):
                module(batch).backward()
            unkeyed = not torch.equal(before, torch.get_rng_state())
        return Randomness(tuple(seen), unkeyed)

    @property
    def float_dtype(self) -> torch.dtype:
        """The dtype that draws are made in."""
        return self.problem.dtype or torch.get_default_dtype()
