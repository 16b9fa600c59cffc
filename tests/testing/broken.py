"""A plain optimizer that meets every requirement, and one that is broken for each check.

`Sound` uses nothing of ravine.optim: the suite is held against something else than what it is made for.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

RANGES = {"lr": (0.0, float("inf")), "momentum": (0.0, 1.0), "weight_decay": (0.0, float("inf"))}
SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}


class Sound(torch.optim.Optimizer):
    """Heavy-ball momentum with decoupled decay: ``w <- w (1 - lr wd); v <- mu v + g; w <- w - lr v``.

    >>> import torch
    >>> p = torch.ones(1, requires_grad=True)
    >>> p.grad = torch.ones(1)
    >>> Sound([p], lr=0.5).step()
    >>> p.item()
    0.5
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize, "foreach": foreach})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.check_names(param_group)
        self.check_range({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def check_names(self, group: dict[str, Any]) -> None:
        unknown = group.keys() - self.defaults.keys() - {"params", "param_names"} - SCHEDULERS
        if unknown:
            raise ValueError(f"unknown: {unknown}")

    def check_range(self, group: dict[str, Any]) -> None:
        for name, (low, high) in RANGES.items():
            if not low <= group[name] < high:
                raise ValueError(f"{name} is {group[name]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else self.evaluate(closure)
        self.update(self.prepare())
        return loss

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        with torch.enable_grad():
            return closure()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def prepare(self) -> list[tuple[Any, ...]]:
        """Parameters with gradients, their buffers and numbers as tensors: what a compiled step gets."""
        ready = []
        for group in self.param_groups:
            self.check_range(group)
            for p in group["params"]:
                if p.grad is not None:
                    ready.append((p, self.gradient(p, group), self.buffer(p), *self.numbers(p, group)))
        return ready

    def gradient(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        assert p.grad is not None
        grad = self.dense(p.grad) if p.grad.is_sparse else p.grad
        return -grad if group["maximize"] else grad

    def dense(self, grad: Tensor) -> Tensor:
        return grad.to_dense()

    def buffer(self, p: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        return state["momentum_buffer"]

    def numbers(self, p: Tensor, group: dict[str, Any]) -> list[Tensor]:
        dtype = torch.promote_types(p.dtype, torch.float32)
        lr, momentum = (torch.tensor(group[name], dtype=dtype) for name in ("lr", "momentum"))
        return [lr, momentum, torch.tensor(1 - group["lr"] * group["weight_decay"], dtype=dtype)]

    def update(self, ready: list[tuple[Any, ...]]) -> None:
        for p, grad, v, lr, momentum, factor in ready:
            v.mul_(momentum).add_(grad)
            p.copy_(p * factor - lr * v)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = deepcopy(state_dict)
        self.check_order(state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in enumerate(params):
            if i in state_dict["state"] and state_dict["state"][i]["momentum_buffer"].shape != p.shape:
                raise ValueError(f"shape of parameter {i}")
        super().load_state_dict(state_dict)
        for i, p in enumerate(params):
            if i in state_dict["state"]:
                self.state[p]["momentum_buffer"] = state_dict["state"][i]["momentum_buffer"]

    def check_order(self, state_dict: dict[str, Any]) -> None:
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            if group.get("param_names") != saved.get("param_names"):
                raise ValueError(f"names: {saved['param_names']}")


# One broken optimizer a check. What it breaks beyond that check is listed beside it in test_broken.py.


class DampedFirstStep(Sound):
    """The first gradient is halved on its way into the buffer."""

    def gradient(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        first = p not in self.state
        return super().gradient(p, group) * (0.5 if first else 1.0)


class NoMomentum(Sound):
    """The buffer is zeroed at every step: momentum 0.9 is momentum 0 (kozistr's SignSGD up to 3.10.1)."""

    def buffer(self, p: Tensor) -> Tensor:
        return super().buffer(p).zero_()


class DeadDecay(Sound):
    """Weight decay is accepted and never applied."""

    def numbers(self, p: Tensor, group: dict[str, Any]) -> list[Tensor]:
        return super().numbers(p, {**group, "weight_decay": 0.0})


class MaximizesTwice(Sound):
    """maximize doubles the gradient too."""

    def gradient(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        grad = super().gradient(p, group)
        return 2 * grad if group["maximize"] else grad


class LateRounding(Sound):
    """float32 state of float64 parameters: right to seven digits, not to sixteen."""

    def buffer(self, p: Tensor) -> Tensor:
        v = super().buffer(p)
        return v.copy_(v.float())


class ForeachWithoutMomentum(Sound):
    """The foreach path forgets its buffer (kozistr's SGDW 3.9)."""

    def prepare(self) -> list[tuple[Any, ...]]:
        for group in self.param_groups:
            if group["foreach"]:
                self.state.clear()
        return super().prepare()  # type: ignore[no-any-return]


class WholeBlocksOnly(Sound):
    """bfloat16 parameters: full blocks of 32 elements are left alone (torch's fused SGD 2.13)."""

    def update(self, ready: list[tuple[Any, ...]]) -> None:
        before = [p.clone() for p, *_ in ready]
        super().update(ready)
        for (p, *_), old in zip(ready, before, strict=True):
            if p.dtype == torch.bfloat16:
                whole = p.numel() // 32 * 32
                p.view(-1)[:whole] = old.view(-1)[:whole]


class DecaysOncePerDtype(Sound):
    """Every parameter is decayed once for each dtype among them (timm's SGDW)."""

    def numbers(self, p: Tensor, group: dict[str, Any]) -> list[Tensor]:
        *others, factor = super().numbers(p, group)
        return [*others, factor ** len({q.dtype for q in group["params"]})]


class FirstGroupForAll(Sound):
    """Every group is stepped with the learning rate of the first."""

    def numbers(self, p: Tensor, group: dict[str, Any]) -> list[Tensor]:
        return super().numbers(p, {**group, "lr": self.param_groups[0]["lr"]})


class LosesRepeatedRows(Sound):
    """Of the rows of a sparse gradient that stand twice, the last one counts."""

    def dense(self, grad: Tensor) -> Tensor:
        rows = torch.zeros(grad.shape)
        for row, values in zip(grad._indices()[0], grad._values(), strict=True):
            rows[row] = values
        return rows


class KeepsSparseRows(Sound):
    """The sparse gradients of all steps are kept (the buffer of torch's SGD, in effect)."""

    def dense(self, grad: Tensor) -> Tensor:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is grad:
                    super().buffer(p)
                    self.state[p]["rows"] = grad + self.state[p].get("rows", torch.zeros_like(grad))
        return super().dense(grad)


class SubtractsDecay(Sound):
    """Decoupled decay subtracts the constant lr wd (jettify's SGDW)."""

    def update(self, ready: list[tuple[Any, ...]]) -> None:
        for p, grad, v, lr, momentum, factor in ready:
            v.mul_(momentum).add_(grad)
            p.copy_(p - (1 - factor) - lr * v)


class RefusesLateGradients(Sound):
    """Every parameter must have a gradient once one has (torch's fused SGD 2.13, in effect)."""

    def prepare(self) -> list[tuple[Any, ...]]:
        params = [p for group in self.param_groups for p in group["params"]]
        if any(p in self.state for p in params) and any(p.grad is not None and p not in self.state for p in params):
            raise TypeError("expected Tensor, got None")
        return super().prepare()  # type: ignore[no-any-return]


class MovesWithoutGradient(Sound):
    """A parameter without a gradient goes on along its buffer."""

    def prepare(self) -> list[tuple[Any, ...]]:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and p in self.state:
                    p.sub_(group["lr"] * self.state[p]["momentum_buffer"])
        return super().prepare()  # type: ignore[no-any-return]


class UninitialisedOnOverflow(Sound):
    """The buffer is made before the skipped step and never filled (torch's fused SGD 2.13)."""

    _step_supports_amp_scaling = True

    def buffer(self, p: Tensor) -> Tensor:
        if p not in self.state:
            self.state[p]["momentum_buffer"] = torch.empty_like(p)
            if not getattr(self, "found_inf", torch.zeros(())).any():
                self.state[p]["momentum_buffer"].zero_()
        v: Tensor = self.state[p]["momentum_buffer"]
        return v

    def update(self, ready: list[tuple[Any, ...]]) -> None:
        if getattr(self, "found_inf", torch.zeros(())).any():
            return
        if (scale := getattr(self, "grad_scale", None)) is not None:
            ready = [(p, grad / scale, *others) for p, grad, *others in ready]
        super().update(ready)


class RewritesGradient(Sound):
    """maximize negates the gradient in place (kozistr 4.1.0)."""

    def gradient(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        assert p.grad is not None
        return p.grad.neg_() if group["maximize"] else p.grad


class TakesGradient(Sound):
    """The gradient is None after a step (HeavyBall 3)."""

    def update(self, ready: list[tuple[Any, ...]]) -> None:
        super().update(ready)
        for p, *_ in ready:
            p.grad = None


class ClosureWithoutGrad(Sound):
    """The closure runs with grad disabled (SOAP)."""

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        return closure()


class SwallowsLoss(Sound):
    """step(closure) returns None."""

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        super().evaluate(closure)


class ForgetsOnLoad(Sound):
    """The loaded momentum is a fresh one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["momentum_buffer"].mul_(0.5)


class AliasesOnLoad(Sound):
    """An in-process load shares the buffers (torch)."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        for i, state in state_dict["state"].items():
            self.state[params[i]]["momentum_buffer"] = state["momentum_buffer"]


class LoadsAnyOrder(Sound):
    """A state of other shapes is accepted (torch)."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = deepcopy(state_dict)
        torch.optim.Optimizer.load_state_dict(self, state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        for i, state in state_dict["state"].items():
            self.state[params[i]]["momentum_buffer"] = state["momentum_buffer"]


class LoadsByPosition(Sound):
    """Names are not looked at (torch, as documented)."""

    def check_order(self, state_dict: dict[str, Any]) -> None:
        pass


class CastsOnLoad(Sound):
    """The loaded state takes the dtype of the parameter (torch)."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            state["momentum_buffer"] = state["momentum_buffer"].to(p.dtype)


class CannotBePickled(Sound):
    """An attribute of it is a lambda."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.scale = lambda: 1.0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__


class SwallowsKeywords(Sound):
    """Unknown arguments are taken and dropped (kozistr 4.1.0)."""

    def __init__(
        self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0, **rest: Any
    ) -> None:
        known = {name: value for name, value in rest.items() if name in ("maximize", "foreach")}
        super().__init__(params, lr, momentum, weight_decay, **known)


class SwallowsGroupKeys(Sound):
    """Unknown names in a group are kept and not looked at (torch)."""

    def check_names(self, group: dict[str, Any]) -> None:
        pass


class AcceptsAnything(Sound):
    """Values are not checked in the constructor, only at the step."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.check_names(param_group)
        torch.optim.Optimizer.add_param_group(self, param_group)


class ChecksOnce(Sound):
    """Values are checked in the constructor only (torch)."""

    def prepare(self) -> list[tuple[Any, ...]]:
        self.check_range = lambda group: None  # type: ignore[method-assign]
        try:
            return super().prepare()  # type: ignore[no-any-return]
        finally:
            del self.check_range


class MomentumUnderAnotherKey(Sound):
    """The group calls the momentum "inertia", so no scheduler finds it (HeavyBall 3 calls it beta)."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["inertia"] = group.pop("momentum")

    def numbers(self, p: Tensor, group: dict[str, Any]) -> list[Tensor]:
        return super().numbers(p, {**group, "momentum": group["inertia"]})

    def check_range(self, group: dict[str, Any]) -> None:
        super().check_range({"momentum": group.get("inertia", 0.0), **group})


class IgnoresAddedGroups(Sound):
    """Parameters that are added after the first step are never stepped."""

    def prepare(self) -> list[tuple[Any, ...]]:
        self.seen = getattr(self, "seen", len(self.param_groups))
        kept, self.param_groups = self.param_groups, self.param_groups[: self.seen]
        try:
            return super().prepare()  # type: ignore[no-any-return]
        finally:
            self.param_groups = kept


class RunsHooksTwice(Sound):
    """Its step calls the decorated step of its base, which torch decorates once the base has been made."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return torch.optim.Optimizer.profile_hook_step(Sound.step)(self, closure)


class NeverCompiles(Sound):
    """Nothing of the step is left to the compiler, which says nothing: 0 graphs."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def update(self, ready: list[tuple[Any, ...]]) -> None:
        super().update(ready)


class KeepsEveryLoss(Sound):
    """A list in the state grows with every step (a Hessian-free optimizer of 2024)."""

    def update(self, ready: list[tuple[Any, ...]]) -> None:
        super().update(ready)
        for p, grad, *_ in ready:
            self.state[p].setdefault("history", []).append(float(grad.sum()))


class SecondBuffer(Sound):
    """Twice the documented state."""

    def buffer(self, p: Tensor) -> Tensor:
        v = super().buffer(p)
        self.state[p].setdefault("other", torch.zeros_like(v))
        return v


class WrongExample(Sound):
    """An optimizer whose example was never run.

    >>> 1 + 1
    3
    """
