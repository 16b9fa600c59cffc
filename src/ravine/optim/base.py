"""A rule as a `torch.optim.Optimizer`.

A step has two halves. The first is plain Python: it checks the groups, asks the schedules, makes missing state and
turns numbers into tensors. The second is tensor arithmetic only, the rule applied to each parameter. A compiled step
is one graph whatever the numbers do, because the first half stays outside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import ParamsT

from ravine.errors import UserError
from ravine.optim import checkpoint
from ravine.optim.arithmetic import Batch, Room, advance
from ravine.optim.batches import Arrangement, Called, Given, Taken, Way, copied, gathered, same, stream
from ravine.optim.compiled import Compiler, Program
from ravine.optim.groups import Group, Reading, check_edits, check_names, check_switches, checks_words, number, unpacked
from ravine.optim.kernels import plain
from ravine.optim.sources import Source
from ravine.rules.base import Hyper, Rule
from ravine.schedules import Schedule
from ravine.schedules.base import require_count

Value: TypeAlias = float | Tensor | Schedule
"""A hyper-parameter as the user gives it: a number, a tensor of one element, or a function of the step."""


class RuleOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: torch's contract around one rule.

    - Each hyper-parameter, in the constructor or in a group, is a number or a schedule ``step -> float``: a pure
      function of the steps that its group has taken (``group["step"]``, which is in the checkpoint). ``group[name]``
      shows the number in use. Giving a number to a name that has a schedule raises at the next step.
    - Unknown names and values out of range raise `UserError`, when a group is added and at each step.
    - State begins as zeros at the first gradient of a parameter. It is kept, saved and loaded in float32 for float16
      and bfloat16 parameters, else in the dtype of the parameter.
    - ``p.grad`` is only read. A complex parameter is stepped as its real and imaginary parts, each a real one, but a
      rule that looks at rows (`Rule.elementwise` off) raises `UserError`; so do integers.
    - A sparse gradient, coalesced or not, gives the steps of the dense one. Rules that leave parameter and state alone
      where the gradient is zero (`Rule.rests`) touch only its rows if there is no weight decay, others make it dense.
    - On the CPU contiguous parameters in float32 and float64 are stepped by torch's kernel of the rule, if it has one
      (`ravine.optim.kernels`), and large ones by the shortcut of the rule, if it has one (`ravine.optim.shortcuts`);
      all others are stepped by the body of the rule. They differ by rounding.
    - `compile`, and ``torch.compile(optimizer.step)``, make one graph, while any hyper-parameter changes.
    """

    rule: ClassVar[Rule]
    torch_options: ClassVar[dict[str, dict[str, bool]]] = {}
    """What is on in torch's optimizer with the same rule, beyond our options, by the names of the rules torch has."""

    def __init__(self, params: ParamsT, **options: Any) -> None:
        self._readings: dict[int, Reading] = {}
        self._arranged: dict[int, Arrangement] = {}
        self._held: list[Tensor] = []  # of the state, when it was arranged
        self._room = Room()
        self._copied: list[Source] = []  # of a compiled step under way
        self._program: Program | None = None  # compiled in place
        super().__init__(params, {**options, "schedules": {}, "step": 0})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            cls.__init__ = checks_words(cls.__init__)  # type: ignore[method-assign]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it, and it is no option of ours
        for group in self.param_groups:
            group.setdefault("rounding", None)  # from before there was any
        self._readings, self._arranged, self._held, self._room = {}, {}, [], Room()
        self._copied, self._program = [], None

    # What a subclass with several rules changes.

    def rule_of(self, group: Group) -> Rule:
        """The rule that steps a group."""
        return self.rule

    def hyper(self, group: Group) -> dict[str, Hyper]:
        """Every hyper-parameter of a group with its range, by the rule's names."""
        rule = self.rule_of(group)
        return {**rule.hyper, "weight_decay": rule.weight_decay}

    def read(self, group: Group) -> dict[str, Any]:
        """The hyper-parameters of a group by the rule's names."""
        names, values = self.hyper(group), unpacked(group)
        wanted = [name for name in names if name.startswith("beta")]
        if wanted != [name for name in values if name.startswith("beta")]:
            raise UserError(f"betas is {group['betas']!r}: give ({', '.join(wanted)})")
        return {name: values[name] for name in names}

    def write(self, group: Group, name: str, value: float) -> None:
        """Set one hyper-parameter of a group by the rule's name."""
        if "betas" in group and name.startswith("beta"):
            place = int(name.removeprefix("beta")) - 1
            group["betas"] = tuple(value if k == place else beta for k, beta in enumerate(group["betas"]))
        else:
            group[name] = value

    # Groups.

    def add_param_group(self, param_group: Group) -> None:
        """Add a group as in torch, once its names and values are checked."""
        check_names(type(self).__name__, param_group, self.defaults)
        whole = {**self.defaults, **param_group}
        rounding = self.param_groups[0]["rounding"] if self.param_groups else None
        new: Group = {"rule": self.rule_of(whole).name, "schedules": {}, "step": 0, "rounding": rounding}
        super().add_param_group({**param_group, **new})
        group = self.param_groups[-1]
        try:
            for param in group["params"]:
                self._check_dtype(group, param)
            self._numbers(group)
        except UserError:
            self.param_groups.pop()
            raise

    def _check_dtype(self, group: Group, param: Tensor) -> None:
        """A rule that looks at rows would see real and imaginary parts as columns: it takes no complex numbers."""
        alike = self.rule_of(group).elementwise
        if not param.is_floating_point() and not (alike and param.dtype in (torch.complex64, torch.complex128)):
            kinds = "real or complex" if alike else "real"
            raise UserError(f"{type(self).__name__} steps parameters of {kinds} numbers, not of {param.dtype}")
        if param.is_conj():
            raise UserError("a parameter is a conjugate that was never written down: give that of x.resolve_conj()")

    def _read(self, place: int, group: Group) -> dict[str, float]:
        """The hyper-parameters of a group's next step, as at the last one if nobody has touched the group."""
        last = self._readings.get(place)
        if last is None or not last.holds(group):
            last = self._readings[place] = Reading(group, self._numbers(group))
        return last.numbers

    def _numbers(self, group: Group) -> dict[str, float]:
        """The checked hyper-parameters of a group's next step, as numbers; its schedules are asked."""
        check_edits(type(self).__name__, group, self.defaults)
        check_switches(group)
        rule = self.rule_of(group)
        if rule.name != group["rule"]:
            raise UserError(
                f"a group of {type(self).__name__} was changed from {group['rule']} to {rule.name}, but not its state"
            )
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
            for name, hyper in self.hyper(group).items()
        }
        for name in schedules:
            self.write(group, name, numbers[name])
        for name in rule.foresees:
            coming = schedules[name](group["step"] + 1) if name in schedules else numbers[name]
            numbers[f"next_{name}"] = number(name, coming, rule.hyper[name])
        return numbers

    # A step.

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, *args: Any, **kwargs: Any) -> float | None:
        """Step every parameter that has a gradient; return what ``closure`` returns, which is run with grad on."""
        return (self._watched_step if self._watched() else self._bare_step)(*args, **kwargs)

    # Torch wraps a step that is not marked: for hooks, and for a record that takes a tenth of a step of a million
    # elements even if no profiler is there to read it. So its wrapper is around ours only when somebody looks on.
    step.hooked = "by itself"  # type: ignore[attr-defined]

    def _watched(self) -> bool:
        """Whether a hook, a profiler or a compiler looks on, and torch has not wrapped the step of a subclass."""
        return type(self).step.hooked is not True and (  # type: ignore[attr-defined]
            torch.compiler.is_compiling()
            or bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)
            or bool(torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks)
            or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
            or torch.autograd.profiler._is_profiler_enabled  # of all threads
        )

    def _bare_step(self, closure: Callable[[], float] | None = None) -> float | None:
        """The step itself, without hooks and records."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():  # as a decorator it takes three times as long
            if torch.compiler.is_compiling():
                advance(outside(self._gather))
                if self._copied:
                    outside(self._scatter)
            else:
                self._step()
        return loss

    _watched_step = torch.optim.Optimizer.profile_hook_step(_bare_step)
    step.__wrapped__ = _bare_step  # type: ignore[attr-defined]  # whose signature it has

    def _step(self) -> None:
        """One step that is not traced."""
        program = self._program
        if program and any(group["rounding"] is not None for group in self.param_groups):
            program = None
        called, taken = self._prepare("graph" if program else "eager")
        if taken and (program is None or not program.step(taken)):  # first: a compiler may fail
            stream(taken)
        for each in called:
            each.step()

    def compile(self, compiler: Compiler | None = None) -> None:
        """Compile the arithmetic of `step` from now on, in place, as ``torch.nn.Module.compile`` does.

        It spares what ``torch.compile(optimizer.step)`` spends on each call. ``compiler`` is a backend as
        ``torch.compile`` takes it, a function ``(graph, example_inputs) -> callable``; Inductor if there is none.
        What a graph is not worth compiling for steps as before: what torch's own kernels step, sparse gradients that
        touch rows, and more than eight different sets of parameters with gradients. Copies of the optimizer are not
        compiled.
        """
        self._program = Program(compiler)

    def round_stochastically(self, seed: int | None = 0) -> None:
        """Write bfloat16 parameters rounded up or down at random from now on, so that small steps are not lost.

        P(up) is the distance from the number below over that between both, so the mean is what was to be written; the
        state is float32 as ever. Other parameters are not rounded; a group that is added later is. The draws are a
        function of the seed, of the steps taken and of the order of the parameters. Seed and steps are in the
        checkpoint, so a resumed run is the unbroken one bit by bit; a checkpoint without rounding leaves it as it is.
        With None for the seed they are rounded to the nearest again.

        Every step is eager then, also after `compile`, and one within ``torch.compile`` raises `UserError`, as does one
        of sharded parameters. `UserError` if there is no parameter in bfloat16, or if the seed is no natural number.
        """
        if seed is not None:
            require_count("the seed", seed, 0)
            if not any(param.dtype == torch.bfloat16 for group in self.param_groups for param in group["params"]):
                raise UserError(f"{type(self).__name__} steps no parameter in bfloat16, which could be rounded")
        for group in self.param_groups:
            group["rounding"] = None if seed is None else int(seed)

    def _rounding(self, place: int, group: Group, way: Way) -> tuple[int, ...] | None:
        """The key of the draws of a group's next step, if it rounds at random."""
        if group["rounding"] is None:
            return None
        halves = [param for param in group["params"] if param.dtype == torch.bfloat16]
        if not halves:
            return None
        if way == "traced":
            raise UserError("within torch.compile nothing is rounded at random: call optimizer.step() outside of it")
        if not all(map(plain, halves)):
            raise UserError("only parameters that are plain tensors are rounded at random, not sharded ones")
        return group["rounding"], place, group["step"]

    def _prepare(self, way: Way) -> tuple[list[Called], list[Taken]]:
        """The Python half of a step: what torch's kernels step, and what the rules do.

        Everything that can be wrong raises before anything has changed.
        """
        numbers = [self._read(place, group) for place, group in enumerate(self.param_groups)]
        given = [self._given(place, group, way) for place, group in enumerate(self.param_groups)]
        arranged = self._arrangements(given)
        called: list[Called] = []
        taken: list[Taken] = []
        for group, each, values, arrangement in zip(self.param_groups, given, numbers, arranged, strict=True):
            for part in arrangement.next(each, values, group["maximize"], self._room):
                if isinstance(part, Called):
                    called.append(part)
                else:
                    taken.append(part)
            group["step"] += 1
        return called, taken

    def _gather(self) -> list[Batch]:
        """Prepare a compiled step: all its pieces."""
        _, taken = self._prepare("traced")
        self._copied = copied(taken)
        return gathered(taken)

    def _scatter(self) -> None:
        """Conclude a compiled step."""
        for source in self._copied:
            source.scatter()
        self._copied = []

    def _given(self, place: int, group: Group, way: Way) -> Given:
        """The parameters of a group that have a gradient."""
        params: list[Tensor] = group["params"]
        grads = [grad for param in params if (grad := param.grad) is not None]
        if len(grads) < len(params):
            params = [param for param in params if param.grad is not None]
        return Given(self.rule_of(group), params, grads, self.state, way, self._rounding(place, group, way))

    def _arrangements(self, given: list[Given]) -> list[Arrangement]:
        """What is given to each group, arranged as at the last step where nothing has changed."""
        if not same(self._tensors(), self._held):
            self._arranged.clear()
        for place, each in enumerate(given):
            last = self._arranged.get(place)
            if last is None or not last.fits(each):
                self._arranged[place] = Arrangement(each)
                self._held = self._tensors()
        return [self._arranged[place] for place in range(len(given))]

    def _tensors(self) -> list[Tensor]:
        """Every tensor of the state."""
        return [tensor for state in self.state.values() for tensor in state.values()]

    def reset_state(self, *which: Tensor | Group, schedules: bool = False) -> None:
        """Forget the state of everything, or of the given groups and parameters, as if they had not stepped yet.

        Schedules go on from where they are; with ``schedules`` those of the groups begin again. Hyper-parameters that
        are numbers stay. `UserError` if a parameter or group is not of this optimizer.
        """
        chosen: list[Tensor] = []
        groups = [group for group in self.param_groups if not which or any(group is item for item in which)]
        for group in groups:
            chosen += group["params"]
        own = {id(param) for group in self.param_groups for param in group["params"]}
        known = own | {id(group) for group in groups}
        for item in which:
            if id(item) not in known:
                raise UserError(f"reset_state was given what {type(self).__name__} does not step: {_shown(item)}")
            if isinstance(item, Tensor):
                if schedules:
                    raise UserError(
                        "schedules belong to a group, and reset_state was given a parameter: give its group"
                    )
                chosen.append(item)
        for param in chosen:
            self.state.pop(param, None)
        if schedules:
            for group in groups:
                group["step"] = 0
                self.show_schedules(group)

    def show_schedules(self, group: Group) -> None:
        """Write the numbers that the schedules of a group gave at its last step, or give at its first, into it."""
        for name, schedule in group["schedules"].items():
            self.write(group, name, schedule(max(group["step"] - 1, 0)))

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """As in torch, with the name of the rule, and the schedules as data.

        A schedule that is a function of the user's is code, and stays out: only the step that it goes by is saved.
        """
        return checkpoint.completed(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` has saved, or torch's optimizer with the same rule; nothing is shared with it.

        Parameters are matched by name if both optimizers were given named parameters, else by their order. Numbers and
        schedules are those of the file, where it has them. `UserError`, before anything changes, if a shape does not
        fit its parameter, if a name is missing, or if the state is that of another rule.
        """
        loaded: dict[str, Any] = {}

        def adapt(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
            loaded.update(checkpoint.adapted(self, saved))
            return loaded

        hook = self.register_load_state_dict_pre_hook(adapt)  # the last one: it sees what will be loaded
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        checkpoint.restore(self, loaded)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function that is not to be a part of the compiled graph."""
    return function(*given)


def _shown(item: object) -> str:
    return f"a parameter of shape {tuple(item.shape)}" if isinstance(item, Tensor) else f"{item!r:.60}"
