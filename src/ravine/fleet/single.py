"""One run alone, as a user would train it: the model's own forward and backward pass and the drop-in optimizer."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ravine import optim
from ravine.fleet import draws
from ravine.fleet.keys import key
from ravine.fleet.order import Order
from ravine.fleet.task import Evaluation, Task, TrainingLoss
from ravine.rules import Rule


def _optimizer(rule: Rule, parameters: list[Tensor], hyper: Mapping[str, float]) -> torch.optim.Optimizer:
    """The drop-in optimizer of a rule."""
    constructors = {made.rule.name: made for made in optim.RuleOptimizer.__subclasses__()}
    words: dict[str, Any] = dict(hyper)
    if "beta1" in words:
        words["betas"] = (words.pop("beta1"), words.pop("beta2"))
    return constructors[rule.name](parameters, **words)


class Single:
    """A fleet of one; the same questions and answers as `Stacked`."""

    def __init__(self, task: Task, rule: Rule, seed: int, hyper: Mapping[str, float]) -> None:
        self._task, self._seed, self.seeds = task, seed, [seed]
        model = task.model(seed)
        self._loss, self._evaluation = TrainingLoss(task.problem, model), Evaluation(task.problem, model)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._lr = hyper["lr"]
        self._optimizer = _optimizer(rule, self._trained, {**hyper, "weight_decay": task.problem.weight_decay})
        self._order = Order(task.study_seed, seed, task.data.train.rows, task.batch_size, task.problem.sampling)

    def step(self, step: int) -> Tensor:
        """One update with the batch of `step` (from 0); the training loss before it, shape (1,)."""
        task, problem = self._task, self._task.problem
        if task.full_batch:
            batch = task.data.train.tensors
        else:
            batch = task.data.train.batch(torch.from_numpy(self._order.batch(step)).to(task.device))
        self._optimizer.zero_grad()
        self._loss.train()
        with self._keyed(step):
            loss: Tensor = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if problem.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, problem.clip)
        if problem.schedule is not None:
            self._optimizer.param_groups[0]["lr"] = self._lr * problem.schedule(step)
        self._optimizer.step()
        return loss.detach().view(1)

    def _keyed(self, step: int) -> contextlib.AbstractContextManager[object]:
        """Inside it, every draw of the model comes from the stream of (study seed, run seed, step)."""
        task = self._task
        if not task.randomness:
            return contextlib.nullcontext()
        stack = contextlib.ExitStack()
        if task.randomness.unkeyed:
            stack.enter_context(torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []))
            torch.manual_seed(key(task.study_seed, "draws", self._seed, step))
        generator = task.step_generator(self._seed, step)
        stack.enter_context(draws.from_generator(generator, task.device, task.float_dtype))
        return stack

    @torch.no_grad()
    def evaluate(self, split: str) -> Tensor:
        """Means of the loss and every metric over a split, shape (1, 1 + metrics), float64."""
        task = self._task
        total, rows = torch.zeros(1, len(task.names), dtype=torch.float64, device=task.device), 0
        self._evaluation.eval()
        for number, (size, batch) in enumerate(task.pieces(split)):
            if task.randomness:
                with torch.random.fork_rng(devices=[]):
                    generator = torch.Generator().manual_seed(task.evaluation_key(number))
                    torch.manual_seed(task.evaluation_key(number))
                    with draws.from_generator(generator, task.device, task.float_dtype):
                        total += size * self._evaluation(batch)
            else:
                total += size * self._evaluation(batch)
            rows += size
        return total / rows

    def finite(self) -> Tensor:
        """Whether all parameters are still finite, shape (1,)."""
        return torch.stack([parameter.isfinite().all() for parameter in self._trained]).all().view(1)

    def keep(self, alive: Tensor) -> None:
        """A run alone has no neighbours to rid of."""

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, for a checkpoint."""
        slots = self._optimizer.state_dict()["state"]
        named = {f"slot.{k}.{n}": torch.as_tensor(v) for k, slot in slots.items() for n, v in slot.items()}
        return {**{f"model.{n}": v.detach().clone() for n, v in self._loss.state_dict().items()}, **named}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        model = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        self._loss.load_state_dict({f"{name}": value for name, value in model.items()})
        saved = self._optimizer.state_dict()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("slot."):
                _, number, slot = name.split(".", 2)
                slots.setdefault(int(number), {})[slot] = value
        self._optimizer.load_state_dict({**saved, "state": slots})

    def parameters(self) -> dict[str, Tensor]:
        """name -> (1, ...): parameters and what the model carries, for the parity probe."""
        named = [*self._loss.named_parameters(), *self._loss.named_buffers()]
        return {name: value.detach().unsqueeze(0) for name, value in named}
