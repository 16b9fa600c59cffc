"""What an optimizer is set to, in the words of the stability theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ravine import optim
from ravine.measure import stability_limit
from ravine.schedules import Form

PRESUMED_MEMORY = 0.9
"""The momentum that the gain is measured with where the optimizer has none."""


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of a group.

    known: whether `limit` holds: heavy-ball, Nesterov's and EMA momentum, and Adam on its preconditioned Hessian.
    denominators: (beta2, eps) of Adam, else None. weight_decay: where it is a term of the gradient, else 0.
    """

    lr: float
    momentum: float
    nesterov: bool = False
    form: Form = "heavy-ball"
    weight_decay: float = 0.0
    maximize: bool = False
    known: bool = True
    denominators: tuple[float, float] | None = None

    @property
    def limit(self) -> float | None:
        """The curvature above which full-batch training diverges, `measure.stability_limit`; None if not known."""
        if not self.known or not 0 <= self.momentum < 1 or not 0 < self.lr < float("inf"):
            return None
        return stability_limit(self.lr, self.momentum, nesterov=self.nesterov, form=self.form)

    @property
    def memory(self) -> float:
        """The momentum of the average of gradients that the monitor keeps."""
        return self.momentum if 0 < self.momentum < 1 else PRESUMED_MEMORY


def largest(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The group with the most parameters, which stands for the others."""
    return max(optimizer.param_groups, key=lambda group: sum(p.numel() for p in group["params"]))


def settings(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Settings:
    """What a group of an optimizer is set to now."""
    lr = float(group.get("lr", float("nan")))
    decay = float(group.get("weight_decay") or 0.0)
    maximize = bool(group.get("maximize", False))
    betas: Any = group.get("betas")
    if isinstance(optimizer, (torch.optim.SGD, optim.SGD, optim.Momentum, optim.Nesterov)):
        momentum = float(group.get("momentum", 0.0))
        nesterov = bool(group.get("nesterov", isinstance(optimizer, optim.Nesterov)))
        scale = 1 - float(group.get("dampening", 0.0)) if momentum else 1.0
        return Settings(lr * scale, momentum, nesterov, group.get("form", "heavy-ball"), decay, maximize)
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW, optim.Adam, optim.AdamW)):
        decoupled = isinstance(optimizer, (torch.optim.AdamW, optim.AdamW)) or group.get("decoupled_weight_decay")
        return Settings(
            lr,
            float(betas[0]),
            form="ema",
            weight_decay=0.0 if decoupled else decay,
            maximize=maximize,
            known=not group.get("amsgrad", False),
            denominators=(float(betas[1]), float(group["eps"])),
        )
    given = group.get("momentum", betas[0] if isinstance(betas, tuple) and betas else 0.0)
    return Settings(lr, _number(given), maximize=maximize, known=False)


def _number(value: object) -> float:
    """A hyper-parameter that is one number; 0 for what is none."""
    return float(value) if isinstance(value, (int, float, Tensor)) else 0.0


def preconditioner(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], found: Settings) -> Tensor | None:
    """sqrt(s^) + eps of Adam for every number of `parameters`, (P,); infinite where it has not stepped yet.

    None for optimizers without denominators.
    """
    if found.denominators is None:
        return None
    beta2, eps = found.denominators
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    pieces = []
    for p in parameters:
        state, group = optimizer.state.get(p, {}), group_of.get(id(p), {})
        if "exp_avg_sq" not in state:
            pieces.append(torch.full((p.numel(),), float("inf"), device=p.device, dtype=p.dtype))
            continue
        steps = float(state.get("step", group.get("step", 0)))
        correction = 1 - beta2**steps if group.get("bias_correction", True) and steps else 1.0
        root = (state["exp_avg_sq"].detach() / correction).sqrt().add_(eps)
        pieces.append(root.reshape(-1).to(p.dtype))
    return torch.cat(pieces)
