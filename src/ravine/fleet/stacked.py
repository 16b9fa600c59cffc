"""Many runs of one problem at once: parameters stacked in one (runs, P) buffer, one traced or compiled step for all."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ravine.fleet import draws
from ravine.fleet.keys import generator
from ravine.fleet.order import Order
from ravine.fleet.task import Task
from ravine.fleet.trace import drop_untouched, reuse_memory, trace
from ravine.rules import Rule

AHEAD = 16  # steps whose row numbers are looked up at once


class Layout:
    """Where each parameter lies in a row of the (runs, P) buffer."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.shapes = {name: tensor.shape for name, tensor in parameters.items()}
        self.size = sum(tensor.numel() for tensor in parameters.values())

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """(runs, P) -> name: (runs, *shape), sharing memory."""
        runs, offset, views = flat.shape[0], 0, {}
        for name, shape in self.shapes.items():
            views[name] = flat[:, offset : offset + shape.numel()].view(runs, *shape)
            offset += shape.numel()
        return views

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """The inverse of `views`, in memory of its own."""
        return torch.cat([tensor.reshape(tensor.shape[0], -1) for tensor in tensors], dim=1)


class Program:
    """The traced functions of a task, one per number of runs, shared by all chunks that a worker trains."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.start = task.start(0)
        self.layout = Layout(self.start.parameters)
        self._loss = task.training(task.model(0)).train()
        self._evaluation = task.evaluation(task.model(0)).eval()
        self._traced: dict[Any, Any] = {}

    def obstacle(self) -> str | None:
        """Why this task cannot be stacked, as far as can be said without trying."""
        if len({tensor.dtype for tensor in self.start.parameters.values()}) > 1:
            return "its parameters have several dtypes"
        if self.task.in_training.unkeyed or self.task.in_evaluation.unkeyed:
            return "it draws random numbers that cannot be keyed by run"
        return None

    def update(
        self, rule: Rule, compiled: bool, sections: list[list[Tensor]], hyper: Sequence[str]
    ) -> tuple[Callable[..., list[Tensor]], list[str]]:
        """A step of all runs, and the names of the carried tensors that it updates.

        It takes the tensors of `sections`, which are [parameters (runs, P)], slots, values of `hyper`, carried, draws,
        batch. It writes over parameters and slots, and returns [losses, *updated].
        """
        runs = len(sections[0][0])
        if runs not in self._traced:
            parameters = list(self.layout.views(sections[0][0]).values())
            self._traced[runs] = self._trace_gradients([parameters, *sections[3:]])
        gradients, updated = self._traced[runs]
        name = (runs, rule, tuple(hyper), compiled)
        if name not in self._traced:
            step = self._step(rule, [len(section) for section in sections], hyper, gradients)
            self._traced[name] = _compiled(step, _joined(sections)) if compiled else step
        return self._traced[name], updated

    def _trace_gradients(self, sections: list[list[Tensor]]) -> tuple[fx.GraphModule, list[str]]:
        """The graph (parameters, carried, draws, batch) -> (gradients, updated, losses), and what is updated."""
        names, carried = list(self.start.parameters), list(self.start.carried)
        specs, module = self.task.in_training.draws, self._loss
        structure = pytree.tree_structure(self.task.data.train.tensors)

        def one_run(parameters: list[Tensor], state: list[Tensor], drawn: list[Tensor], batch: list[Tensor]) -> Any:
            def objective(parameters: list[Tensor]) -> Any:
                copies = {name: value.clone() for name, value in zip(carried, state, strict=True)}
                tensors = {**dict(zip(names, parameters, strict=True)), **copies}
                with draws.from_list(specs, drawn):
                    loss = functional_call(module, tensors, (pytree.tree_unflatten(batch, structure),))
                return loss, (loss.detach(), list(copies.values()))

            gradients, (loss, copies) = grad(objective, has_aux=True)(parameters)
            return gradients, copies, loss

        stacked = vmap(one_run, in_dims=(0, 0, 0, None if self.task.full_batch else 0))
        lengths = [len(section) for section in sections]

        def flat(*values: Tensor) -> list[Tensor]:
            gradients, copies, loss = stacked(*_cut(values, lengths))
            return [*gradients, *copies, loss]

        graph = trace(flat, _joined(sections))
        outputs = range(len(names), len(names) + len(carried))  # an argument and its update have the same place
        updated = drop_untouched(graph, {place: place for place in outputs})
        reuse_memory(graph)
        return graph, [carried[place - len(names)] for place in updated]

    def _step(
        self, rule: Rule, lengths: list[int], hyper: Sequence[str], gradients: Callable[..., list[Tensor]]
    ) -> Callable[..., list[Tensor]]:
        count, clip = len(self.layout.shapes), self.task.problem.clip

        def step(*values: Tensor) -> list[Tensor]:
            (parameters,), slots, factors, *rest = _cut(values, lengths)
            *found, losses = gradients(*self.layout.views(parameters).values(), *_joined(rest))
            gradient = self.layout.flat(found[:count])
            if clip is not None:
                norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
                gradient.mul_((clip / (norms + 1e-6)).clamp(max=1.0))
            state = dict(zip(rule.slots, slots, strict=True))
            rule.update(parameters, gradient, state, dict(zip(hyper, factors, strict=True)))
            return [losses, *found[count:]]

        return step

    def evaluation(self, tensors: list[Tensor], batch: list[Tensor], piece: int) -> Callable[..., list[Tensor]]:
        """The graph (parameters, carried, batch) -> [(runs, 1 + metrics)] of a piece of a split."""
        draws_of = piece if self.task.in_evaluation.draws else None
        name = (len(tensors[0]), draws_of, tuple(leaf.shape for leaf in batch))
        if name not in self._traced:
            self._traced[name] = self._trace_evaluation(tensors, batch, self.task.evaluation_key(piece))
        return self._traced[name]  # type: ignore[no-any-return]

    def _trace_evaluation(self, tensors: list[Tensor], batch: list[Tensor], number: int) -> fx.GraphModule:
        names, task, module = [*self.start.parameters, *self.start.carried], self.task, self._evaluation
        structure = pytree.tree_structure(task.data.train.tensors)

        def one_run(values: list[Tensor], batch: list[Tensor]) -> Tensor:
            tensors = {name: value.clone() for name, value in zip(names, values, strict=True)}
            with draws.from_generator(generator(number), task.device, stacked=True):
                result: Tensor = functional_call(module, tensors, (pytree.tree_unflatten(batch, structure),))
            return result

        stacked = vmap(one_run, in_dims=(0, None))
        graph = trace(lambda *values: [stacked(*_cut(values, [len(tensors), len(batch)]))], [*tensors, *batch])
        reuse_memory(graph)
        return graph


def _compiled(step: Callable[..., list[Tensor]], arguments: list[Tensor]) -> Callable[..., list[Tensor]]:
    """`step` as one compiled graph; traced first, so that it has a place of its own among what torch has compiled."""
    graph = make_fx(step)(*(argument.clone() for argument in arguments))  # tracing runs the step: on copies
    return torch.compile(graph, fullgraph=True, dynamic=False)


def _cut(values: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    """`values` in parts of these lengths."""
    rest = iter(values)
    return [list(itertools.islice(rest, length)) for length in lengths]


def _joined(sections: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return list(itertools.chain.from_iterable(sections))


class Stacked:
    """Runs `len(seeds)` runs in lock-step; `hyper` holds one value per run of every hyper-parameter of the rule."""

    def __init__(
        self,
        program: Program,
        rule: Rule,
        seeds: Sequence[int],
        hyper: Mapping[str, Sequence[float]],
        compiled: bool = False,
    ) -> None:
        task = program.task
        self._program, self._task, self._rule, self._compiled = program, task, rule, compiled
        self.seeds = list(seeds)
        starts = {seed: task.start(seed) for seed in dict.fromkeys(seeds)}
        dtype = next(iter(program.start.parameters.values())).dtype
        self._flat = torch.empty(len(seeds), program.layout.size, dtype=dtype, device=task.device)
        for name, view in program.layout.views(self._flat).items():
            for run, seed in enumerate(seeds):
                view[run] = starts[seed].parameters[name]
        self._carried = {n: torch.stack([starts[seed].carried[n] for seed in seeds]) for n in program.start.carried}
        self._slots = {name: torch.zeros_like(self._flat) for name in rule.slots}
        if task.problem.weight_decay:
            hyper = {**hyper, "weight_decay": [task.problem.weight_decay] * len(seeds)}
        self._hyper = {  # in float64, so that 1 - momentum loses nothing; the rule casts
            name: torch.tensor(values, dtype=torch.float64, device=task.device).view(-1, 1)
            for name, values in hyper.items()
        }
        self._whole = pytree.tree_leaves(task.data.train.tensors)
        rows, sampling = task.data.train.rows, task.problem.sampling
        self._orders = {seed: Order(task.study_seed, seed, rows, task.batch_size, sampling) for seed in starts}
        self._place()

    def _place(self) -> None:
        """Numbers the distinct seeds: batches and draws of a seed are made once, however many runs share it."""
        unique = {seed: number for number, seed in enumerate(dict.fromkeys(self.seeds))}
        self._orders = {seed: self._orders[seed] for seed in unique}
        self._number = torch.tensor([unique[seed] for seed in self.seeds], device=self._task.device)
        self._ahead_from, self._ahead = 0, torch.empty(0, dtype=torch.int64)  # row numbers of the steps ahead

    def _batch(self, step: int) -> list[Tensor]:
        if self._task.full_batch:
            return self._whole
        if not 0 <= step - self._ahead_from < len(self._ahead):
            steps = range(step, step + AHEAD)
            ahead = np.stack([[order.batch(one) for order in self._orders.values()] for one in steps])
            self._ahead_from, self._ahead = step, torch.from_numpy(ahead).to(self._task.device)[:, self._number]
        rows = self._ahead[step - self._ahead_from]
        flat = rows.view(-1)
        return [leaf.index_select(0, flat).view(*rows.shape, *leaf.shape[1:]) for leaf in self._whole]

    def _draws(self, step: int) -> list[Tensor]:
        task = self._task
        specs = task.in_training.draws
        if not specs:
            return []
        drawn = []
        for seed in self._orders:
            stream = generator(task.training_key(seed, step))
            drawn.append([spec.draw(stream, task.device) for spec in specs])
        return [torch.stack(of_seeds)[self._number] for of_seeds in zip(*drawn, strict=True)]

    def step(self, step: int) -> Tensor:
        """One update of every run with the batch of `step` (from 0); the training losses before it, shape (runs,)."""
        schedule = self._task.problem.schedule
        count = torch.tensor(step + 1.0, dtype=torch.float64, device=self._task.device)
        hyper = {**self._hyper, "step": count}
        if schedule is not None:
            hyper["lr"] = hyper["lr"] * schedule(step)
        state = [[self._flat], list(self._slots.values()), list(hyper.values()), list(self._carried.values())]
        sections = [*state, self._draws(step), self._batch(step)]
        update, names = self._program.update(self._rule, self._compiled, sections, list(hyper))
        losses, *updated = update(*_joined(sections))
        self._carried.update(zip(names, updated, strict=True))
        return losses

    def evaluate(self, split: str) -> Tensor:
        """Means of the loss and every metric over a split, shape (runs, 1 + metrics), float64."""
        task, tensors, rows = self._task, list(self.parameters().values()), 0
        total = torch.zeros(len(self.seeds), len(task.names), dtype=torch.float64, device=task.device)
        for number, (size, batch) in enumerate(task.pieces(split)):
            leaves = pytree.tree_leaves(batch)
            total += size * self._program.evaluation(tensors, leaves, number)(*tensors, *leaves)[0]
            rows += size
        return total / rows

    def finite(self) -> Tensor:
        """Which runs still have finite parameters, shape (runs,): a sum is finite only if its terms are."""
        return self._flat.sum(dim=1).isfinite()

    def keep(self, alive: Tensor) -> None:
        """Goes on with these runs only: what diverged no longer costs anything."""
        self.seeds = [seed for seed, kept in zip(self.seeds, alive.tolist(), strict=True) if kept]
        self._flat = self._flat[alive]
        self._slots = {name: slot[alive] for name, slot in self._slots.items()}
        self._carried = {name: value[alive] for name, value in self._carried.items()}
        self._hyper = {name: value[alive] for name, value in self._hyper.items()}
        self._place()

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, for a checkpoint."""
        named = {f"slot.{name}": slot for name, slot in self._slots.items()}
        return {"flat": self._flat, **named, **{f"carried.{name}": value for name, value in self._carried.items()}}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._flat.copy_(state["flat"])
        for name, slot in self._slots.items():
            slot.copy_(state[f"slot.{name}"])
        self._carried = {name: state[f"carried.{name}"].to(self._task.device) for name in self._carried}

    def parameters(self) -> dict[str, Tensor]:
        """name -> (runs, ...): parameters and what the model carries."""
        return {**self._program.layout.views(self._flat), **self._carried}
