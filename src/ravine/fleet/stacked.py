"""Many runs of one problem at once: each parameter stacked to (runs, *shape), one traced or compiled step for all."""

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
from ravine.graphs import once
from ravine.rules import Rule
from ravine.rules.base import nonzero
from ravine.schedules import Setting
from ravine.schedules.base import at

AHEAD = 16  # steps whose row numbers are looked up at once


class Program:
    """The traced functions of a task, one per number of runs, shared by all chunks that a worker trains."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.start = task.start(0)
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

        It takes the tensors of `sections`, which are parameters, slots (all of the first, all of the second ...),
        values of `hyper`, carried, draws, batch. It writes over parameters and slots, and returns [losses, *updated].
        """
        runs = len(sections[0][0])
        if runs not in self._traced:
            self._traced[runs] = self._trace_gradients([sections[0], *sections[3:]])
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
        count, clip = len(self.start.parameters), self.task.problem.clip

        def step(*values: Tensor) -> list[Tensor]:
            parameters, slots, factors, *rest = _cut(values, lengths)
            *found, losses = gradients(*parameters, *_joined(rest))
            slopes = found[:count]
            if clip is not None:
                factor = (clip / (_norms(slopes) + 1e-6)).clamp(max=1.0)
                slopes = [slope * _along_runs(factor, slope) for slope in slopes]
            h = dict(zip(hyper, factors, strict=True))
            of_runs = rule.coefficients(h)
            for scalar in rule.scalars:
                h[scalar].copy_(of_runs[scalar])
            dtype = parameters[0].dtype
            c = {name: value.to(dtype) for name, value in of_runs.items()}
            if rule.normed:
                decayed = [rule.decayed(p, s, _shaped(c, p)) for p, s in zip(parameters, slopes, strict=True)]
                c["grad_norm"] = nonzero(_norms(decayed))
            states = zip(*_cut(slots, [count] * len(rule.slots)), strict=True) if slots else itertools.repeat(())
            for parameter, slope, state in zip(parameters, slopes, states, strict=False):
                slots_of = dict(zip(rule.slots, state, strict=True))
                shaped = _shaped(c, parameter)
                rule.apply(parameter, rule.decayed(parameter, slope, shaped), slots_of, shaped)
            return [losses, *found[count:]]

        return step

    def evaluation(
        self, compiled: bool, tensors: list[Tensor], batch: list[Tensor], piece: int
    ) -> Callable[..., list[Tensor]]:
        """The graph (parameters, carried, batch) -> [(runs, 1 + metrics)] of a piece of a split."""
        draws_of = piece if self.task.in_evaluation.draws else None
        name = (len(tensors[0]), draws_of, tuple(leaf.shape for leaf in batch), compiled)
        if name not in self._traced:
            graph = self._trace_evaluation(tensors, batch, self.task.evaluation_key(piece))
            self._traced[name] = _compiled(graph, [*tensors, *batch]) if compiled else graph
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
    """`step` as one compiled graph, for arguments of these shapes only.

    It goes to the compiler without TorchDynamo, whose checks of the arguments take 0.1 ms a call: the shapes are known.
    """
    graph = make_fx(step)(*(argument.clone() for argument in arguments))  # tracing runs the step: on copies
    made: Callable[..., list[Tensor]] = torch._inductor.compile(once(graph, arguments), list[Any](arguments))
    return made


def _cut(values: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    """`values` in parts of these lengths."""
    rest = iter(values)
    return [list(itertools.islice(rest, length)) for length in lengths]


def _joined(sections: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return list(itertools.chain.from_iterable(sections))


def _along_runs(values: Tensor, tensor: Tensor) -> Tensor:
    """(runs,) or one value for all -> a shape that broadcasts against `tensor`, (runs, ...)."""
    return values.view(-1, *[1] * (tensor.ndim - 1))


def _shaped(c: Mapping[str, Tensor], tensor: Tensor) -> dict[str, Tensor]:
    """Coefficients that broadcast against `tensor`, (runs, ...)."""
    return {name: _along_runs(value, tensor) for name, value in c.items()}


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Norms over all tensors of each run, shape (runs,)."""
    each = [torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1) for tensor in tensors]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return norms


def _later(setting: Setting) -> Setting:
    """What a hyper-parameter will be at the next step, as a function of this one."""
    return (lambda step: setting(step + 1)) if callable(setting) else setting


class Stacked:
    """Runs `len(seeds)` runs in lock-step; `hyper` holds one value per run of every hyper-parameter of the rule.

    A value is a number or a function of the step, from 0.
    """

    def __init__(
        self,
        program: Program,
        rule: Rule,
        seeds: Sequence[int],
        hyper: Mapping[str, Sequence[Setting]],
        compiled: bool = False,
    ) -> None:
        task = program.task
        self._program, self._task, self._rule, self._compiled = program, task, rule, compiled
        self.seeds = list(seeds)
        starts = {seed: task.start(seed) for seed in dict.fromkeys(seeds)}
        start = program.start
        self._parameters, self._carried = (
            {name: torch.stack([getattr(starts[seed], kind)[name] for seed in seeds]) for name in getattr(start, kind)}
            for kind in ("parameters", "carried")
        )
        self._slots = {
            f"{slot}.{name}": torch.zeros_like(tensor)
            for slot in rule.slots
            for name, tensor in self._parameters.items()
        }
        if task.problem.weight_decay:
            hyper = {**hyper, "weight_decay": [task.problem.weight_decay] * len(seeds)}
        hyper = {**hyper, **{f"next_{name}": [_later(value) for value in hyper[name]] for name in rule.foresees}}
        self._scalars = {
            name: torch.full((len(seeds),), value, dtype=torch.float64, device=task.device)
            for name, value in rule.scalars.items()
        }
        moving = {name for name, values in hyper.items() if any(map(callable, values))}
        self._schedules = {name: list(hyper[name]) for name in hyper if name in moving}
        self._hyper = {name: self._numbers(values, 0) for name, values in hyper.items() if name not in moving}
        self._whole = pytree.tree_leaves(task.data.train.tensors)
        rows, sampling = task.data.train.rows, task.problem.sampling
        self._orders = {seed: Order(task.study_seed, seed, rows, task.batch_size, sampling) for seed in starts}
        self._place()

    def _numbers(self, settings: Sequence[Setting], step: int) -> Tensor:
        """The values of a hyper-parameter at a step, in float64, so that 1 - momentum loses nothing; the rule casts."""
        values = [at(setting, step) for setting in settings]
        return torch.tensor(values, dtype=torch.float64, device=self._task.device)

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
            ahead = torch.from_numpy(np.stack([order.batches(step, AHEAD) for order in self._orders.values()], axis=1))
            self._ahead_from, self._ahead = step, ahead.to(self._task.device)[:, self._number]
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

    @torch.no_grad()
    def step(self, step: int) -> Tensor:
        """One update of every run with the batch of `step` (from 0); the training losses before it, shape (runs,)."""
        schedule = self._task.problem.schedule
        count = torch.tensor(step + 1.0, dtype=torch.float64, device=self._task.device)
        moving = {name: self._numbers(settings, step) for name, settings in self._schedules.items()}
        hyper = {**self._hyper, **moving, **self._scalars, "step": count}
        for name in self._rule.random:
            drawn = [self._task.variate(name, seed, step) for seed in self.seeds]
            hyper[name] = torch.tensor(drawn, dtype=torch.float64, device=self._task.device)
        if schedule is not None:
            hyper["lr"] = hyper["lr"] * schedule(step)
        state = [list(named.values()) for named in (self._parameters, self._slots, hyper, self._carried)]
        sections = [*state, self._draws(step), self._batch(step)]
        update, names = self._program.update(self._rule, self._compiled, sections, list(hyper))
        losses, *updated = update(*_joined(sections))
        self._carried.update(zip(names, updated, strict=True))
        return losses

    @torch.no_grad()
    def evaluate(self, split: str) -> Tensor:
        """Means of the loss and every metric over a split, shape (runs, 1 + metrics), float64."""
        task, tensors, rows = self._task, list(self.parameters().values()), 0
        compiled = self._compiled and split != "train"  # on which a run is evaluated only twice
        total = torch.zeros(len(self.seeds), len(task.names), dtype=torch.float64, device=task.device)
        for number, (size, batch) in enumerate(task.pieces(split)):
            leaves = pytree.tree_leaves(batch)
            judge = self._program.evaluation(compiled, tensors, leaves, number)
            total += size * judge(*tensors, *leaves)[0]
            rows += size
        return total / rows

    def finite(self) -> Tensor:
        """Which runs still have finite parameters, shape (runs,): a sum is finite only if its terms are."""
        sums = [tensor.reshape(len(tensor), -1).sum(dim=1) for tensor in self._parameters.values()]
        return torch.stack(sums).isfinite().all(dim=0)

    def keep(self, alive: Tensor) -> None:
        """Goes on with these runs only: what diverged no longer costs anything."""
        places = alive.nonzero().flatten().tolist()
        self.seeds = [self.seeds[place] for place in places]
        self._schedules = {name: [settings[k] for k in places] for name, settings in self._schedules.items()}
        self._parameters, self._slots, self._scalars, self._carried, self._hyper = (
            {name: value[alive] for name, value in named.items()}
            for named in (self._parameters, self._slots, self._scalars, self._carried, self._hyper)
        )
        self._place()

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, for a checkpoint."""
        kinds = {
            "parameter": self._parameters,
            "slot": self._slots,
            "scalar": self._scalars,
            "carried": self._carried,
        }
        return {f"{kind}.{name}": value for kind, named in kinds.items() for name, value in named.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def parameters(self) -> dict[str, Tensor]:
        """name -> (runs, ...): parameters and what the model carries."""
        return {**self._parameters, **self._carried}
