"""One run alone, as a user would train it: the model's own forward and backward pass and the drop-in optimizer."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ravine import optim
from ravine.fleet.order import Order
from ravine.fleet.task import Batch, Task
from ravine.rules import Rule
from ravine.schedules import Setting
from ravine.schedules.base import at


class Alone:
    """A run by itself: its model and data, without what steps it."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._seed, self.seeds = task, seed, [seed]
        model = task.model(seed)
        self._loss, self._evaluation = task.training(model), task.evaluation(model)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._order = Order(task.study_seed, seed, task.data.train.rows, task.batch_size, task.problem.sampling)

    def _batch(self, step: int) -> Batch:
        """The batch of a step (from 0)."""
        task = self._task
        if task.full_batch:
            return task.data.train.tensors
        return task.data.train.batch(torch.from_numpy(self._order.batch(step)).to(task.device))

    @torch.no_grad()
    def evaluate(self, split: str) -> Tensor:
        """Means of the loss and every metric over a split, shape (1, 1 + metrics), float64."""
        task = self._task
        total, rows = torch.zeros(1, len(task.names), dtype=torch.float64, device=task.device), 0
        self._evaluation.eval()
        for number, (size, batch) in enumerate(task.pieces(split)):
            with task.keyed(task.in_evaluation, task.evaluation_key(number)):
                total += size * self._evaluation(batch)
            rows += size
        return total / rows

    def finite(self) -> Tensor:
        """Whether all parameters are still finite, shape (1,): a sum is finite only if its terms are."""
        sums = [parameter.detach().sum().float() for parameter in self._trained]
        return torch.stack(sums).isfinite().all().view(1)

    def keep(self, alive: Tensor) -> None:
        """A run alone has no neighbours to be rid of."""

    def _model_state(self) -> dict[str, Tensor]:
        """Parameters and buffers, those too that a state_dict leaves out; tied ones once."""
        named = [*self._loss.named_parameters(), *self._loss.named_buffers()]
        return {name: value.detach() for name, value in named}

    def parameters(self) -> dict[str, Tensor]:
        """name -> (1, ...): parameters and what the model carries, for the parity probe."""
        return {name: value.unsqueeze(0) for name, value in self._model_state().items()}


class Single(Alone):
    """A fleet of one; the same questions and answers as `Stacked`."""

    def __init__(self, task: Task, rule: Rule, seed: int, hyper: Mapping[str, Setting]) -> None:
        super().__init__(task, seed)
        self._lr, self._random = hyper["lr"], rule.random
        whole = {**hyper, **dict.fromkeys(rule.random, 1.0), "weight_decay": task.problem.weight_decay}
        self._optimizer = optim.for_rule(rule.name, self._trained, whole)

    def step(self, step: int) -> Tensor:
        """One update with the batch of `step` (from 0); the training loss before it, shape (1,)."""
        task, problem = self._task, self._task.problem
        batch = self._batch(step)
        self._optimizer.zero_grad()
        self._loss.train()
        with task.keyed(task.in_training, task.training_key(self._seed, step)):
            loss: Tensor = self._loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        if problem.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, problem.clip)
        group = self._optimizer.param_groups[0]
        if problem.schedule is not None:
            group["lr"] = at(self._lr, step) * problem.schedule(step)
        for name in self._random:
            group[name] = task.variate(name, self._seed, step)
        self._optimizer.step()
        return loss.detach().view(1)

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, for a checkpoint."""
        slots = self._optimizer.state_dict()["state"]
        named = {f"slot.{k}.{name}": value for k, slot in slots.items() for name, value in slot.items()}
        return {**self._model_state(), **named, "step": torch.tensor(self._optimizer.param_groups[0]["step"])}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, tensor in self._model_state().items():
            tensor.copy_(state[name])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("slot."):
                _, number, slot = name.split(".", 2)
                slots.setdefault(int(number), {})[slot] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": slots})
        group = self._optimizer.param_groups[0]
        group["step"] = int(state["step"])  # which its schedules go by
        self._optimizer.show_schedules(group)
