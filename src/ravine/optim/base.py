"""A rule as a `torch.optim.Optimizer`.

A step has two halves. The first is plain Python: it checks the groups, asks the schedules, makes missing state and
turns numbers into tensors. The second is tensor arithmetic only, the rule applied to each parameter. So a compiled
step is one graph whatever the numbers do: the first half stays outside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import signature
from itertools import chain
from typing import Any, ClassVar, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ravine.errors import UserError
from ravine.optim.groups import check_names, nearest, number
from ravine.rules.base import WEIGHT_DECAY, Hyper, Rule, Tensors, decayed
from ravine.schedules import Schedule

Value: TypeAlias = float | Tensor | Schedule
"""A hyper-parameter as the user gives it: a number, a 0-dim tensor, or a function of the step."""

Group: TypeAlias = dict[str, Any]

BLOCK = 512 * 1024
"""Elements that an elementwise rule takes at a time on the CPU, so that its passes over them stay in the cache."""


@dataclass(frozen=True)
class Batch:
    """Parameters that one set of coefficients serves: what the arithmetic half of a step gets."""

    rule: Rule
    maximize: bool
    coefficients: Tensors
    tensors: list[tuple[Tensor, Tensor, Tensors]]  # parameter, gradient, state


class RuleOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: torch's contract around one rule.

    - Each hyper-parameter, in the constructor or in a group, is a number or a schedule ``step -> float``, a pure
      function of the steps that its group has taken (``group["step"]``, in the checkpoint). ``group[name]`` shows the
      number in use; giving a number to a name that has a schedule raises at the next step.
    - Unknown names and values out of range raise `UserError` when a group is added and at each step.
    - State is kept in float32 for float16 and bfloat16 parameters, else in the dtype of the parameter, and is loaded
      and saved as such. It begins as zeros at the first gradient of a parameter.
    - ``p.grad`` is only read. Sparse gradients and complex parameters raise `UserError`.
    - ``torch.compile(optimizer.step)`` makes one graph, while any hyper-parameter changes.
    """

    rule: ClassVar[Rule]
    torch_options: ClassVar[dict[str, Any]] = {}
    """Options of the torch optimizer with the same rule that ours does not have, where they must be on."""

    def __new__(cls, *args: object, **keywords: object) -> RuleOptimizer:
        known = signature(cls).parameters
        for name in keywords:
            if name not in known:
                raise TypeError(f"{cls.__name__} has no argument {name!r}: {nearest(name, known)}")
        return super().__new__(cls)

    def __init__(self, params: ParamsT, options: dict[str, Any]) -> None:
        super().__init__(params, {**options, "schedules": {}, "step": 0})

    # What a subclass with several rules or with packed hyper-parameters changes.

    def rule_of(self, group: Group) -> Rule:
        """The rule that steps this group."""
        return self.rule

    def read(self, group: Group) -> dict[str, Any]:
        """The hyper-parameters of a group by the rule's names."""
        return {name: group[name] for name in self._hyper()}

    def write(self, group: Group, name: str, value: float) -> None:
        """Set one hyper-parameter of a group by the rule's name."""
        group[name] = value

    def _hyper(self) -> dict[str, Hyper]:
        return {**self.rule.hyper, "weight_decay": WEIGHT_DECAY}

    # Groups.

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as `torch.optim.Optimizer` does, after its names and values are checked."""
        check_names(type(self).__name__, param_group, self.defaults, strict=True)
        super().add_param_group({**param_group, "schedules": {}, "step": 0})
        group = self.param_groups[-1]
        try:
            for param in group["params"]:
                if not param.is_floating_point():
                    raise UserError(f"{type(self).__name__} steps floating-point parameters only, not {param.dtype}")
            self._numbers(group)
        except UserError:
            self.param_groups.pop()
            raise

    def _numbers(self, group: Group) -> dict[str, float]:
        """The checked hyper-parameters of the next step of a group; schedules are asked, and adopted if new."""
        schedules: dict[str, Schedule] = group["schedules"]
        step: int = group["step"]
        numbers = {}
        for (name, hyper), value in zip(self._hyper().items(), self.read(group).values(), strict=True):
            if callable(value):
                schedules[name] = value
            elif name in schedules and value != schedules[name](max(step - 1, 0)):
                raise UserError(
                    f"{name} was set to {value} in a group where a schedule gives it: "
                    f'take the schedule out of group["schedules"] first'
                )
            if name in schedules:
                value = schedules[name](step)
                self.write(group, name, value)
            numbers[name] = number(name, value, hyper)
        return numbers

    # A step.

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient; returns what ``closure``, run with grad on, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        advance(self._prepare())
        return loss

    @torch.compiler.disable
    def _prepare(self) -> list[Batch]:
        """The Python half of a step."""
        numbers = [self._numbers(check_names(type(self).__name__, g, self.defaults)) for g in self.param_groups]
        ready = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        for param in chain.from_iterable(ready):
            if param.grad.layout is not torch.strided:
                raise UserError(
                    f"{type(self).__name__} does not take sparse gradients, and a parameter of shape "
                    f"{tuple(param.shape)} has one: make its layer with sparse=False"
                )
        batches = []
        for group, values, params in zip(self.param_groups, numbers, ready, strict=True):
            batches += self._batches(group, values, params)
            group["step"] += 1
        return batches

    def _batches(self, group: Group, values: dict[str, float], params: list[Tensor]) -> Iterator[Batch]:
        """Parameters of a group with one device, dtype and number of steps share their coefficients."""
        rule = self.rule_of(group)
        alike: dict[tuple[torch.device, torch.dtype, float], list[tuple[Tensor, Tensor, Tensors]]] = {}
        for param in params:
            state = self._state(param)
            step = 0.0
            if rule.counts:
                step = float(state["step"].add_(1))
            assert param.grad is not None
            slots = {name: state[name] for name in rule.slots}
            alike.setdefault((param.device, working_dtype(param), step), []).append((param, param.grad, slots))
        for (device, dtype, step), tensors in alike.items():
            h = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
            if rule.counts:
                h["step"] = torch.tensor(step, dtype=torch.float64)
            if not values["weight_decay"]:
                del h["weight_decay"]
            c = rule.coefficients(h)
            at_once = torch.stack(list(c.values())).to(device=device, dtype=dtype).unbind()
            yield Batch(rule, group["maximize"], dict(zip(c, at_once, strict=True)), tensors)

    def _state(self, param: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        for name in self.rule.slots:
            if state.get(name) is None:
                state[name] = torch.zeros_like(param, dtype=working_dtype(param), requires_grad=False)
        if self.rule.counts and "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
        return state

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """As in torch. Schedules are code and are not saved, only the number of steps that they go by."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            del group["schedules"]
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict`, or the torch optimizer with the same rule, has saved; nothing is shared with it.

        The schedules stay those of this optimizer and go on from the loaded step. `UserError`, before anything has
        changed, if a shape does not fit its parameter or an option was on that this optimizer does not have.
        """
        loaded: dict[str, Any] = {}
        schedules = [group["schedules"] for group in self.param_groups]

        def adapt(_: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            loaded.update(given, param_groups=[self._adapted(group) for group in given["param_groups"]])
            self._check_shapes(loaded)
            return loaded

        hook = self.register_load_state_dict_pre_hook(adapt)  # the last one, so that it sees what will be loaded
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        for group, own in zip(self.param_groups, schedules, strict=True):
            group["schedules"] = own
            for name, schedule in own.items():
                self.write(group, name, schedule(max(group["step"] - 1, 0)))
        for param, state in self._pairs(loaded):
            for name in self.rule.slots:
                if state.get(name) is not None:  # torch has cast it to the dtype of the parameter: take it afresh
                    value = state[name].detach()
                    self.state[param][name] = value.to(device=param.device, dtype=working_dtype(param), copy=True)

    def _adapted(self, saved: Group) -> Group:
        """A saved group with our names only: options that are off, and that we do not have, are dropped."""
        own = {"params", "param_names", *self.defaults}
        for name, value in saved.items():
            wanted = self.torch_options.get(name, False)
            if name in self.defaults or name in ("params", "param_names") or value == wanted:
                continue
        raise NotImplementedError(own)

    def _pairs(self, saved: dict[str, Any]) -> Iterable[tuple[Tensor, dict[str, Any]]]:
        """Each parameter with its saved state, in the order of the groups."""
        indices = chain.from_iterable(group["params"] for group in saved["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        return ((param, saved["state"].get(index, {})) for index, param in zip(indices, params, strict=False))

    def _check_shapes(self, saved: dict[str, Any]) -> None:
        for position, (param, state) in enumerate(self._pairs(saved)):
            for name in self.rule.slots:
                value = state.get(name)
                if value is not None and value.shape != param.shape:
                    raise UserError(
                        f"the saved {name} of parameter {position} has shape {tuple(value.shape)} and the parameter "
                        f"has {tuple(param.shape)}: give the parameters in the order in which they were saved"
                    )


def working_dtype(param: Tensor) -> torch.dtype:
    """The dtype of the state and of the arithmetic: float32 for half precision, else that of the parameter."""
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


def advance(batches: list[Batch]) -> None:
    """The arithmetic half of a step: tensor operations only."""
    for batch in batches:
        for param, grad, state in batch.tensors:
            for block in blocks(batch.rule, param, grad, state):
                move(batch, *block)


def blocks(rule: Rule, param: Tensor, grad: Tensor, state: Tensors) -> Iterable[tuple[Tensor, Tensor, Tensors]]:
    """The tensors as they are, or in blocks that fit the cache where that is possible and pays."""
    whole = (param, grad, *state.values())
    if (
        torch.compiler.is_compiling()
        or not rule.elementwise
        or param.numel() <= BLOCK
        or param.device.type != "cpu"
        or not all(tensor.is_contiguous() for tensor in whole)
    ):
        return [(param, grad, state)]
    split = zip(*(tensor.view(-1).split(BLOCK) for tensor in whole), strict=True)
    return ((param, grad, dict(zip(state, slots, strict=True))) for param, grad, *slots in split)


def move(batch: Batch, param: Tensor, grad: Tensor, state: Tensors) -> None:
    """Apply the rule to one tensor, in the working dtype."""
    dtype = working_dtype(param)
    point, slope = param.to(dtype), grad.to(dtype)
    if batch.maximize:
        slope = -slope
    batch.rule.apply(point, decayed(point, slope, batch.coefficients), state, batch.coefficients)
    if point is not param:
        param.copy_(point)
