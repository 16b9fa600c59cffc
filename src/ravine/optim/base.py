"""A rule as a `torch.optim.Optimizer`.

A step has two halves. The first is plain Python: it checks the groups, asks the schedules, makes missing state and
turns numbers into tensors. The second is tensor arithmetic only, the rule applied to each parameter. A compiled step
is one graph whatever the numbers do, because the first half stays outside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ravine.errors import UserError
from ravine.optim.groups import OTHERS, check_edits, check_names, number
from ravine.rules.base import WEIGHT_DECAY, Hyper, Rule, Tensors, decayed
from ravine.schedules import Schedule

Value: TypeAlias = float | Tensor | Schedule
"""A hyper-parameter as the user gives it: a number, a tensor of one element, or a function of the step."""

Group: TypeAlias = dict[str, Any]

BLOCK = 512 * 1024
"""Elements that an elementwise rule takes at a time on the CPU, so that its passes over them stay in the cache."""


@dataclass(frozen=True)
class Batch:
    """Parameters that share their coefficients: what the arithmetic half of a step gets."""

    rule: Rule
    coefficients: Tensors
    dtype: torch.dtype  # of coefficients, state and arithmetic
    maximize: bool
    tensors: list[tuple[Tensor, Tensor, Tensors]]  # parameter, gradient, state


class RuleOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: torch's contract around one rule.

    - Each hyper-parameter, in the constructor or in a group, is a number or a schedule ``step -> float``: a pure
      function of the steps that its group has taken (``group["step"]``, which is in the checkpoint). ``group[name]``
      shows the number in use. Giving a number to a name that has a schedule raises at the next step.
    - Unknown names and values out of range raise `UserError`, when a group is added and at each step.
    - State begins as zeros at the first gradient of a parameter. It is kept, saved and loaded in float32 for float16
      and bfloat16 parameters, else in the dtype of the parameter.
    - ``p.grad`` is only read. Sparse gradients and parameters that are not real raise `UserError`.
    - ``torch.compile(optimizer.step)`` makes one graph, while any hyper-parameter changes.
    """

    rule: ClassVar[Rule]
    torch_options: ClassVar[dict[str, bool] | None] = None
    """What was on in torch's optimizer with the same rule, beyond our options; None where torch has no such rule."""

    def __init__(self, params: ParamsT, options: dict[str, Any]) -> None:
        super().__init__(params, {**options, "schedules": {}, "step": 0})

    # What a subclass with several rules, or with packed hyper-parameters, changes.

    def rule_of(self, group: Group) -> Rule:
        """The rule that steps a group."""
        return self.rule

    def read(self, group: Group) -> dict[str, Any]:
        """The hyper-parameters of a group by the rule's names."""
        return {name: group[name] for name in self.hyper()}

    def write(self, group: Group, name: str, value: float) -> None:
        """Set one hyper-parameter of a group by the rule's name."""
        group[name] = value

    def hyper(self) -> dict[str, Hyper]:
        """Every hyper-parameter with its range."""
        return {**self.rule.hyper, "weight_decay": WEIGHT_DECAY}

    # Groups.

    def add_param_group(self, param_group: Group) -> None:
        """Add a group as in torch, once its names and values are checked."""
        check_names(type(self).__name__, param_group, self.defaults)
        super().add_param_group({**param_group, "schedules": {}, "step": 0})
        group = self.param_groups[-1]
        try:
            for param in group["params"]:
                if not param.is_floating_point():
                    raise UserError(f"{type(self).__name__} steps parameters of real numbers, not of {param.dtype}")
            self._numbers(group)
        except UserError:
            self.param_groups.pop()
            raise

    def _numbers(self, group: Group) -> dict[str, float]:
        """The checked hyper-parameters of a group's next step, as numbers; its schedules are asked."""
        check_edits(type(self).__name__, group, self.defaults)
        schedules: dict[str, Schedule] = group["schedules"]
        values = self.read(group)
        for name, value in values.items():
            if callable(value):
                schedules[name] = value
            elif name in schedules and value != schedules[name](max(group["step"] - 1, 0)):
                raise UserError(
                    f"{name} was set to {value} in a group where a schedule gives it: "
                    f'first take the schedule out of group["schedules"]'
                )
        numbers = {
            name: number(name, schedules[name](group["step"]) if name in schedules else values[name], hyper)
            for name, hyper in self.hyper().items()
        }
        for name in schedules:
            self.write(group, name, numbers[name])
        return numbers

    # A step.

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient; return what ``closure`` returns, which is run with grad on."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        advance(self._prepare())
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prepare(self) -> list[Batch]:
        """The Python half of a step. Everything that can be wrong raises before anything has changed."""
        numbers = [self._numbers(group) for group in self.param_groups]
        ready = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        for param in chain.from_iterable(ready):
            if param.grad.layout is not torch.strided:
                raise UserError(
                    f"{type(self).__name__} does not take sparse gradients, and a parameter of shape "
                    f"{tuple(param.shape)} has one: make its layer with sparse=False"
                )
        batches: list[Batch] = []
        for group, values, params in zip(self.param_groups, numbers, ready, strict=True):
            batches += self._batches(group, values, params)
            group["step"] += 1
        return batches

    def _batches(self, group: Group, values: dict[str, float], params: list[Tensor]) -> Iterator[Batch]:
        """Parameters of a group that have one device, one dtype and taken one number of steps share coefficients."""
        rule = self.rule_of(group)
        alike: dict[tuple[torch.device, torch.dtype, float], list[tuple[Tensor, Tensor, Tensors]]] = {}
        for param in params:
            state = self.state[param] or self._begin(param)
            step = float(state["step"].add_(1)) if rule.counts else 0.0
            slots = {name: state[name] for name in rule.slots}
            assert param.grad is not None
            alike.setdefault((param.device, working_dtype(param), step), []).append((param, param.grad, slots))
        for (device, dtype, step), tensors in alike.items():
            given = {name: value for name, value in values.items() if name != "weight_decay" or value}
            if rule.counts:
                given["step"] = step
            c = coefficients(rule, tuple(given.items()), device, dtype)
            yield Batch(rule, c, dtype, group["maximize"], tensors)

    def _begin(self, param: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first step."""
        state: dict[str, Tensor] = self.state[param]
        for name in self.rule.slots:
            state[name] = torch.zeros_like(param, dtype=working_dtype(param))
        if self.rule.counts:
            state["step"] = torch.tensor(0.0, device="cpu")
        return state

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """As in torch, with the name of the rule. Schedules are code: only the steps that they go by are saved."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            del group["schedules"]
            group["rule"] = self.rule.name
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` has saved, or torch's optimizer with the same rule; nothing is shared with it.

        The schedules stay those of this optimizer, and go on from the loaded step. `UserError`, before anything
        changes, if a shape does not fit its parameter, or if the state is that of another rule.
        """
        loaded: dict[str, Any] = {}
        schedules = [group["schedules"] for group in self.param_groups]

        def adapt(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
            groups = zip(self.param_groups, saved["param_groups"], strict=False)  # torch checks their number
            loaded.update(saved, param_groups=[self._adapted(*pair) for pair in groups])
            self._check_shapes(loaded)
            return loaded

        hook = self.register_load_state_dict_pre_hook(adapt)  # the last one: it sees what will be loaded
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        for param, state in self._pairs(loaded):  # again, because torch casts state to the dtype of the parameter
            self.state[param] = {
                name: state[name].detach().to(device=param.device, dtype=working_dtype(param), copy=True)
                for name in self.rule.slots
                if state.get(name) is not None
            }
            if self.rule.counts and "step" in state:
                self.state[param]["step"] = torch.tensor(float(state["step"]), device="cpu")
        for group, own in zip(self.param_groups, schedules, strict=True):
            group["schedules"] = own
            for name, schedule in own.items():
                self.write(group, name, schedule(max(group["step"] - 1, 0)))

    def _adapted(self, group: Group, saved: Group) -> Group:
        """A saved group with the names of ours, whoever saved it."""
        owner, torch_options = type(self).__name__, self.torch_options
        if "rule" not in saved and torch_options is None:
            raise UserError(f"the saved state is not from {owner}, and torch has no optimizer with the same rule")
        if saved.get("rule", self.rule.name) != self.rule.name:
            raise UserError(
                f"the saved state is that of the rule {saved['rule']!r}, and {owner} has {self.rule.name!r}"
            )
        kept = {
            name: value
            for name, value in saved.items()
            if name != "rule" and ("rule" in saved or name in OTHERS or name in self.defaults)
        }
        for name in saved.keys() - kept.keys() - {"rule"}:
            if torch_options is not None and bool(saved[name]) != torch_options.get(name, False):
                raise UserError(
                    f"the saved state is from an optimizer with {name}={saved[name]}, and {owner} has no such"
                )
        try:
            self.read(kept)
        except KeyError as absent:
            raise UserError(f"the saved state is from an optimizer without {absent}, which {owner} needs") from None
        return {**{name: group[name] for name in self.defaults}, **kept}

    def _pairs(self, saved: dict[str, Any]) -> Iterable[tuple[Tensor, dict[str, Any]]]:
        """Each parameter with its saved state."""
        indices = chain.from_iterable(group["params"] for group in saved["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        return ((param, saved["state"].get(index, {})) for index, param in zip(indices, params, strict=False))

    def _check_shapes(self, saved: dict[str, Any]) -> None:
        for position, (param, state) in enumerate(self._pairs(saved)):
            for name in self.rule.slots:
                value = state.get(name)
                if value is not None and value.shape != param.shape:
                    raise UserError(
                        f"the saved {name} of parameter {position} has shape {tuple(value.shape)}, and the parameter "
                        f"{tuple(param.shape)}: give the parameters in the order in which they were saved"
                    )


def working_dtype(param: Tensor) -> torch.dtype:
    """The dtype of the state and of the arithmetic: float32 for half precision, else that of the parameter."""
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


@lru_cache(maxsize=64)
def coefficients(rule: Rule, given: tuple[tuple[str, float], ...], device: torch.device, dtype: torch.dtype) -> Tensors:
    """The coefficients of a step as tensors, which nobody changes; kept, because most steps use those of the last."""
    names, values = zip(*given, strict=True)
    # float64 on the CPU, so that 1 - momentum loses nothing; one copy takes all of them to the device.
    h = torch.tensor(values, dtype=torch.float64, device="cpu").unbind()
    c = rule.coefficients(dict(zip(names, h, strict=True)))
    there = torch.stack(list(c.values())).to(device=device, dtype=dtype).unbind()
    return dict(zip(c, there, strict=True))


def advance(batches: list[Batch]) -> None:
    """The arithmetic half of a step: tensor operations only."""
    for batch in batches:
        for param, grad, state in batch.tensors:
            if param.numel() > BLOCK and may_cut(batch.rule, param, grad, state):
                for block in cut(param, grad, state):
                    move(batch, *block)
            else:
                move(batch, param, grad, state)


def may_cut(rule: Rule, param: Tensor, grad: Tensor, state: Tensors) -> bool:
    """Whether the tensors can be updated block by block, and gain by it."""
    return (
        rule.elementwise
        and param.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and all(tensor.is_contiguous() for tensor in (param, grad, *state.values()))
    )


def cut(param: Tensor, grad: Tensor, state: Tensors) -> Iterator[tuple[Tensor, Tensor, Tensors]]:
    """Views of the tensors, `BLOCK` elements at a time."""
    tensors = (param, grad, *state.values())
    for point, slope, *slots in zip(*(torch.split(tensor.view(-1), BLOCK) for tensor in tensors), strict=True):
        yield point, slope, dict(zip(state, slots, strict=True))


def move(batch: Batch, param: Tensor, grad: Tensor, state: Tensors) -> None:
    """Apply the rule to one tensor or block, in the working dtype."""
    c, dtype = batch.coefficients, batch.dtype
    point = param if param.dtype == dtype else param.to(dtype)
    slope = grad if grad.dtype == dtype else grad.to(dtype)
    if batch.maximize:
        slope = -slope
    batch.rule.apply(point, decayed(point, slope, c), state, c)
    if point is not param:
        param.copy_(point)
