"""The three forms of momentum, and the laws that turn the hyper-parameters of one into those of another.

With the gradient g_t at step t:

- heavy-ball form: ``v_t = mu_t v_{t-1} + g_t; w <- w - lr_t v_t``;
- EMA form: ``m_t = b_t m_{t-1} + (1 - b_t) g_t; w <- w - eta_t m_t``;
- Sutskever's form: ``u_t = mu_t u_{t-1} - eps_t g_t; w <- w + u_t``.

**Constant hyper-parameters**, of classical momentum and of Nesterov's: the momentum is the same number in all forms,
and lr = eta (1 - b) = eps.

**Classical momentum that changes.** In each form the displacement d_t of step t is a share of the last one and a
multiple of the gradient, and two forms give the same trajectory if both factors agree at each step:

- heavy-ball: ``d_t = mu_t (lr_t / lr_{t-1}) d_{t-1} - lr_t g_t``;
- EMA: ``d_t = b_t (eta_t / eta_{t-1}) d_{t-1} - eta_t (1 - b_t) g_t``;
- Sutskever's: ``d_t = mu_t d_{t-1} - eps_t g_t``.

Solved for one another, from the step ``start`` at which the state is converted, and at which the momentum is the same
number in all forms:

- heavy-ball to EMA: `HeavyBallToEMA`, 1 / (1 - b_t) = 1 + mu_t / (1 - b_{t-1}), and eta_t = lr_t / (1 - b_t);
- EMA to heavy-ball: `EMAToHeavyBall`, mu_t = b_t (1 - b_{t-1}) / (1 - b_t), and lr_t = eta_t (1 - b_t);
- heavy-ball to Sutskever's: `HeavyBallToSutskever`, mu_t lr_t / lr_{t-1}, and the same learning rate;
- Sutskever's to heavy-ball: `SutskeverToHeavyBall`, mu_t eps_{t-1} / eps_t, and the same learning rate.

So heavy-ball and EMA form differ by their learning rate only, as long as the momentum is constant, whatever the
learning rate does; heavy-ball and Sutskever's form are the same, as long as the learning rate is constant, whatever
the momentum does. Where a law gives 1 or more (EMA momentum that rises fast; a learning rate that jumps up), the
target has no such trajectory, and its optimizer says so at that step.

**Nesterov's momentum that changes** has no exact law: d_t = - lr_t g_t - lr_t mu_t v_t (heavy-ball), - eta_t (1 - b_t)
g_t - eta_t b_t m_t (EMA), mu_{t+1} u_t - eps_t g_t (Sutskever's) tie the factor of the old velocity to that of the
new gradient, so that both agree only if the momentum is constant (heavy-ball and EMA) or if mu_t lr_t is (heavy-ball
and Sutskever's). Convert at the change instead: the state is converted exactly with the hyper-parameters of the next
step.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ravine.errors import UserError
from ravine.schedules.base import Setting, at, register, require_count, require_number
from ravine.schedules.momentum import EffectiveLearningRate

Form: TypeAlias = Literal["heavy-ball", "ema", "sutskever"]
FORMS: tuple[Form, ...] = ("heavy-ball", "ema", "sutskever")

REMEMBERED = 64
"""Steps of which `HeavyBallToEMA` keeps the value, because each one needs the one before."""


@register
@dataclass(frozen=True)
class HeavyBallToEMA:
    """The EMA momentum b of the trajectory that heavy-ball momentum mu gives: ``1 - b_t = 1 / s_t``.

    s_t = 1 + mu_t s_{t-1} from s_start = 1 / (1 - mu_start): the velocity that gradients of 1 give. Lies in [0, 1).
    A step costs as many operations as there are steps since the nearest earlier one of the last few that were asked.
    """

    momentum: Setting
    start: int = 0
    _sums: dict[int, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count("the first step", self.start, 0)

    def __call__(self, step: int) -> float:
        if step <= self.start or not callable(self.momentum):
            return at(self.momentum, step)
        if step not in self._sums:
            begin = max((known for known in self._sums if known < step), default=self.start)
            total = self._sums.get(begin, 1 / (1 - self.momentum(self.start)))
            for between in range(begin + 1, step + 1):
                total = 1 + self.momentum(between) * total
            if len(self._sums) == REMEMBERED:
                del self._sums[next(iter(self._sums))]
            self._sums[step] = total
        return 1 - 1 / self._sums[step]


@register
@dataclass(frozen=True)
class EMAToHeavyBall:
    """The heavy-ball momentum of the trajectory that EMA momentum b gives: ``b_t (1 - b_{t-1}) / (1 - b_t)``."""

    momentum: Setting
    start: int = 0

    def __post_init__(self) -> None:
        require_count("the first step", self.start, 0)

    def __call__(self, step: int) -> float:
        now = at(self.momentum, step)
        if step <= self.start or not callable(self.momentum):
            return now
        return now * (1 - self.momentum(step - 1)) / (1 - now)


@register
@dataclass(frozen=True)
class HeavyBallToSutskever:
    """Sutskever's momentum of the trajectory that heavy-ball momentum mu and lr give: ``mu_t lr_t / lr_{t-1}``.

    The ratio is the "momentum correction" of Goyal et al. 2017, Sec. 3. `UserError` where lr_{t-1} is 0: Sutskever's
    velocity has then forgotten what the heavy-ball velocity still knows.
    """

    momentum: Setting
    lr: Setting
    start: int = 0

    def __post_init__(self) -> None:
        require_count("the first step", self.start, 0)

    def __call__(self, step: int) -> float:
        return _rescaled(self, step, now=1)


@register
@dataclass(frozen=True)
class SutskeverToHeavyBall:
    """The heavy-ball momentum of the trajectory that Sutskever's mu and eps give: ``mu_t eps_{t-1} / eps_t``.

    `UserError` where eps_t is 0: Sutskever's velocity still moves the parameters there, and no heavy-ball step does.
    """

    momentum: Setting
    lr: Setting
    start: int = 0

    def __post_init__(self) -> None:
        require_count("the first step", self.start, 0)

    def __call__(self, step: int) -> float:
        return _rescaled(self, step, now=-1)


def _rescaled(law: HeavyBallToSutskever | SutskeverToHeavyBall, step: int, *, now: int) -> float:
    """``momentum (lr_t / lr_{t-1})^now`` after the start."""
    momentum = at(law.momentum, step)
    if step <= law.start or not callable(law.lr):
        return momentum
    above, below = (law.lr(step), law.lr(step - 1))[::now]
    if below == 0:
        raise UserError(f"a learning rate of 0 near step {step} has no counterpart in another form: use a small one")
    return momentum * above / below


@register
@dataclass(frozen=True)
class EMALearningRate:
    """The learning rate of the EMA form from that of the heavy-ball form: ``lr / (1 - momentum)``, EMA momentum."""

    lr: Setting
    momentum: Setting

    def __post_init__(self) -> None:
        require_number("the learning rate", self.lr, 0)
        require_number("the momentum", self.momentum, 0, 1)

    def __call__(self, step: int) -> float:
        return at(self.lr, step) / (1 - at(self.momentum, step))


def convert_settings(
    lr: Setting, momentum: Setting, *, source: Form, target: Form, nesterov: bool = False, start: int = 0
) -> tuple[Setting, Setting]:
    """Learning rate and momentum in the form ``target`` that give the trajectory of those in the form ``source``.

    Numbers stay numbers, and a schedule that is the same in both forms stays itself; the module states the laws.
    ``start`` is the first step that the target form takes, 0 for a whole run. `UserError` for Nesterov's momentum
    that a schedule changes in a way that the target cannot follow.

    >>> convert_settings(0.1, 0.5, source="heavy-ball", target="ema")
    (0.2, 0.5)
    """
    for form in (source, target):
        if form not in FORMS:
            raise UserError(f"there is no form {form!r} of momentum: choose one of {', '.join(FORMS)}")
    if source == target:
        return lr, momentum
    forms, changing = {source, target}, callable(momentum)
    if nesterov and (changing or ("sutskever" in forms and callable(lr))):
        steady = "learning rate and momentum are" if "sutskever" in forms else "momentum is"
        raise UserError(
            f"Nesterov's momentum in {source} form is one in {target} form only while {steady} constant, "
            "and here a schedule changes it: give a number, and convert at each change"
        )
    if source == "ema":
        lr = _product(lr, momentum)
        momentum = EMAToHeavyBall(momentum, start) if changing else momentum
    elif source == "sutskever" and callable(lr):
        momentum = SutskeverToHeavyBall(momentum, lr, start)
    if target == "ema":
        momentum = HeavyBallToEMA(momentum, start) if callable(momentum) else momentum
        lr = _quotient(lr, momentum)
    elif target == "sutskever" and callable(lr):
        momentum = HeavyBallToSutskever(momentum, lr, start)
    return lr, momentum


def _product(lr: Setting, momentum: Setting) -> Setting:
    law = EffectiveLearningRate(lr, momentum)
    return law if callable(lr) or callable(momentum) else law(0)


def _quotient(lr: Setting, momentum: Setting) -> Setting:
    law = EMALearningRate(lr, momentum)
    return law if callable(lr) or callable(momentum) else law(0)
