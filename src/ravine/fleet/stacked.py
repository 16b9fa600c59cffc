"""Many runs of one problem at once: parameters stacked in one (runs, P) buffer, one traced or compiled step for all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree as pytree

from ravine.fleet import draws
from ravine.fleet.order import FleetOrder, Order
from ravine.fleet.task import Evaluation, Task, TrainingLoss
from ravine.fleet.trace import trace, untouched
from ravine.rules import Rule


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


class Program:
    """The traced functions of a task, one per number of runs, shared by all chunks that a worker trains."""

    def __init__(self, task: Task) -> None:
        model = task.model(0)
        self.task = task
        self.start = task.start(0)
        self.layout = Layout(self.start.parameters)
        self._loss = TrainingLoss(task.problem, model).train()
        self._evaluation = Evaluation(task.problem, task.model(0)).eval()
        self._traced: dict[Any, Any] = {}

    def obstacle(self) -> str | None:
        """Why this task cannot be stacked, as far as can be said without trying."""
        if len({tensor.dtype for tensor in self.start.parameters.values()}) > 1:
            return "its parameters have several dtypes"
        if self.task.randomness.unkeyed:
            return "its forward pass draws random numbers that cannot be keyed by run"
        return None

    def gradients(self, arguments: list[Tensor], runs: int) -> tuple[torch.fx.GraphModule, list[str]]:
        """The graph (parameters, carried, draws, batch) -> (gradients, updated, losses) and the names of what is updated."""
        if runs not in self._traced:
            self._traced[runs] = self._trace_gradients(arguments)
        return self._traced[runs]  # type: ignore[no-any-return]

    def _trace_gradients(self, arguments: list[Tensor]) -> tuple[torch.fx.GraphModule, list[str]]:
        names, carried = list(self.start.parameters), list(self.start.carried)
        drawn, module = len(self.task.randomness.specs), self._loss
        structure = pytree.tree_structure(self.task.data.train.tensors)

        def one_run(parameters: list[Tensor], state: list[Tensor], random: list[Tensor], batch: list[Tensor]) -> Any:
            def objective(parameters: list[Tensor]) -> Any:
                copies = {name: value.clone() for name, value in zip(carried, state, strict=True)}
                with draws.from_list(random):
                    tensors = {**dict(zip(names, parameters, strict=True)), **copies}
                    loss = functional_call(module, tensors, (pytree.tree_unflatten(batch, structure),))
                return loss, (loss.detach(), list(copies.values()))

            gradients, (loss, copies) = grad(objective, has_aux=True)(parameters)
            return gradients, copies, loss

        batch_dim = None if self.task.full_batch else 0
        stacked = vmap(one_run, in_dims=(0, 0, 0, batch_dim))
        a, b, c = len(names), len(names) + len(carried), len(names) + len(carried) + drawn

        def flat(*values: Tensor) -> list[Tensor]:
            gradients, copies, loss = stacked(list(values[:a]), list(values[a:b]), list(values[b:c]), list(values[c:]))
            return [*gradients, *copies, loss]

        graph = trace(flat, arguments)
        kept = [k for k in range(len(carried)) if not untouched(graph, a + k, a + k)]
        output = next(node for node in graph.graph.nodes if node.op == "output")
        results = output.args[0]
        output.args = ([*results[:a], *(results[a + k] for k in kept), results[-1]],)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph, [carried[k] for k in kept]

    def evaluation(self, arguments: list[Tensor], tensors: list[Tensor], split: str, piece: int) -> torch.fx.GraphModule:
        """The graph (parameters, carried, batch) -> (runs, 1 + metrics) of one piece of a split."""
        name = (arguments[0].shape[0], split, piece if self._evaluation_draws else tensors[0].shape[0])
        if name not in self._traced:
            self._traced[name] = self._trace_evaluation(arguments, tensors, split, piece)
        return self._traced[name]  # type: ignore[no-any-return]

    @property
    def _evaluation_draws(self) -> bool:
        return bool(self.task.randomness)

    def _trace_evaluation(self, arguments: list[Tensor], tensors: list[Tensor], split: str, piece: int) -> Any:
        names = [*self.start.parameters, *self.start.carried]
        structure, module = pytree.tree_structure(self.task.split(split).tensors), self._evaluation
        task, count = self.task, len(names)

        def one_run(values: list[Tensor], batch: list[Tensor]) -> Tensor:
            generator = torch.Generator().manual_seed(task.evaluation_key(piece))
            with draws.from_generator(generator, task.device, task.float_dtype, stacked=True):
                tensors = {name: value.clone() for name, value in zip(names, values, strict=True)}
                result: Tensor = functional_call(module, tensors, (pytree.tree_unflatten(batch, structure),))
            return result

        stacked = vmap(one_run, in_dims=(0, None))
        return trace(lambda *values: [stacked(list(values[:count]), list(values[count:]))], [*arguments, *tensors])


class Stacked:
    """Runs `len(hyper)` runs in lock-step; `hyper` holds (runs,) values of every hyper-parameter of the rule."""

    def __init__(
        self, program: Program, rule: Rule, seeds: Sequence[int], hyper: Mapping[str, Sequence[float]], compiled: bool = False
    ) -> None:
        task = program.task
        self._program, self._task, self._rule, self._compiled = program, task, rule, compiled
        self.seeds = list(seeds)
        starts = {seed: task.start(seed) for seed in dict.fromkeys(seeds)}
        some = program.start.parameters
        dtype = next(iter(some.values())).dtype
        self._flat = torch.empty(len(seeds), program.layout.size, dtype=dtype, device=task.device)
        for name, view in program.layout.views(self._flat).items():
            for run, seed in enumerate(seeds):
                view[run] = starts[seed].parameters[name]
        self._carried = {n: torch.stack([starts[seed].carried[n] for seed in seeds]) for n in program.start.carried}
        self._slots = {name: torch.zeros_like(self._flat) for name in rule.slots}
        if task.problem.weight_decay:
            hyper = {**hyper, "weight_decay": [task.problem.weight_decay] * len(seeds)}
        self._hyper = {  # in float64, so that 1 - momentum loses nothing; the rule casts
            name: torch.tensor(values, dtype=torch.float64, device=task.device).view(-1, 1) for name, values in hyper.items()
        }
        self._lr = self._hyper["lr"]
        self._prepare()

    def _prepare(self) -> None:
        """What depends on which runs are alive: views, scratch, data order."""
        task, unique = self._task, list(dict.fromkeys(self.seeds))
        self._gradient = torch.empty_like(self._flat)
        self._into = list(self._program.layout.views(self._gradient).values())
        self._parameters = list(self._program.layout.views(self._flat).values())
        self._seed_of_run = torch.tensor([unique.index(seed) for seed in self.seeds], device=task.device)
        rows, sampling = task.data.train.rows, task.problem.sampling
        self._order = FleetOrder([Order(task.study_seed, s, rows, task.batch_size, sampling) for s in unique], task.device)
        self._whole = pytree.tree_leaves(task.data.train.tensors)
        self._step = self._update if not self._compiled else torch.compile(self._update, fullgraph=True, dynamic=False)

    def _batch(self, step: int) -> list[Tensor]:
        if self._task.full_batch:
            return self._whole
        rows = self._order.batch(step)[self._seed_of_run]
        flat = rows.view(-1)
        return [leaf.index_select(0, flat).view(*rows.shape, *leaf.shape[1:]) for leaf in self._whole]

    def _draws(self, step: int) -> list[Tensor]:
        task = self._task
        if not task.randomness.specs:
            return []
        drawn = {}
        for seed in dict.fromkeys(self.seeds):
            generator = task.step_generator(seed, step)
            drawn[seed] = [spec.draw(generator, task.device, task.float_dtype) for spec in task.randomness.specs]
        return [torch.stack([drawn[seed][k] for seed in self.seeds]) for k in range(len(task.randomness.specs))]

    def step(self, step: int) -> Tensor:
        """One update of every run with the batch of `step` (from 0); the training losses before it, shape (runs,)."""
        schedule = self._task.problem.schedule
        if schedule is not None:
            self._hyper["lr"] = self._lr * schedule(step)
        self._hyper["step"] = torch.tensor(step + 1.0, dtype=torch.float64, device=self._task.device)
        arguments = [*self._parameters, *self._carried.values(), *self._draws(step), *self._batch(step)]
        graph, updated = self._program.gradients(arguments, len(self.seeds))
        losses, copies = self._step(graph, arguments, self._hyper)
        for name, value in zip(updated, copies, strict=True):
            self._carried[name] = value
        return losses

    def _update(self, graph: Callable[..., list[Tensor]], arguments: list[Tensor], hyper: dict[str, Tensor]) -> Any:
        results = graph(*arguments)
        for into, gradient in zip(self._into, results, strict=False):
            into.copy_(gradient)
        clip = self._task.problem.clip
        if clip is not None:
            norms = torch.linalg.vector_norm(self._gradient, dim=1, keepdim=True)
            self._gradient.mul_((clip / (norms + 1e-6)).clamp(max=1.0))
        self._rule.update(self._flat, self._gradient, self._slots, hyper)
        return results[-1], results[len(self._into) : -1]

    def evaluate(self, split: str) -> Tensor:
        """Means of the loss and every metric over a split, shape (runs, 1 + metrics), float64."""
        arguments = [*self._parameters, *self._carried.values()]
        total, rows = torch.zeros(len(self.seeds), len(self._task.names), dtype=torch.float64, device=self._task.device), 0
        for number, (size, batch) in enumerate(self._task.pieces(split)):
            tensors = pytree.tree_leaves(batch)
            graph = self._program.evaluation(arguments, tensors, split, number)
            total += size * graph(*arguments, *tensors)[0]
            rows += size
        return total / rows

    def finite(self) -> Tensor:
        """Which runs still have finite parameters, shape (runs,)."""
        return self._flat.isfinite().all(dim=1)

    def keep(self, alive: Tensor) -> None:
        """Goes on with these runs only: what diverged no longer costs anything."""
        self.seeds = [seed for seed, kept in zip(self.seeds, alive.tolist(), strict=True) if kept]
        self._flat = self._flat[alive].contiguous()
        self._slots = {name: slot[alive].contiguous() for name, slot in self._slots.items()}
        self._carried = {name: value[alive].contiguous() for name, value in self._carried.items()}
        self._hyper = {n: value[alive] if value.ndim else value for n, value in self._hyper.items()}
        self._lr = self._lr[alive]
        self._prepare()

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, for a checkpoint."""
        named = {f"slot.{name}": slot for name, slot in self._slots.items()}
        return {"flat": self._flat, **named, **{f"carried.{name}": value for name, value in self._carried.items()}}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._flat.copy_(state["flat"])
        for name, slot in self._slots.items():
            slot.copy_(state[f"slot.{name}"])
        for name in self._carried:
            self._carried[name] = state[f"carried.{name}"].to(self._task.device)

    def parameters(self) -> dict[str, Tensor]:
        """name -> (runs, ...): parameters and what the model carries, for the parity probe."""
        return {**dict(zip(self._program.start.parameters, self._parameters, strict=True)), **self._carried}
