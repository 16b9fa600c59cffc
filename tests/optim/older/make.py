"""What an optimizer of another day wrote, and where it went from there.

    PYTHONPATH=<that checkout>/src python tests/optim/older/make.py tests/optim/older/<its date>.pt

``2026-11-21.pt`` is that of commit c68a8bc. Files are kept: today's ravine is to read them. The rules have, between
them, every kind of state: slots, steps, scalars and schedules.
"""

import copy
import sys

import torch
from torch import Tensor

from ravine.optim import OF_RULE
from ravine.schedules import SutskeverMomentum

RULES = ("momentum", "sutskever-nesterov", "adam", "nadam", "random-scaling", "aggmo", "sgdp")


def gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


def written() -> dict[str, dict[str, object]]:
    """The state of each rule after four steps, the parameters then, and after three more steps."""
    found: dict[str, dict[str, object]] = {}
    for rule in RULES:
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((3, 4), (5,))]
        options = {"momentum": SutskeverMomentum(0.9, period=2)} if rule == "sutskever-nesterov" else {}
        optimizer = OF_RULE[rule](params, lr=0.1, **options)
        for step in range(7):
            if step == 4:
                found[rule] = {
                    "state": copy.deepcopy(optimizer.state_dict()),
                    "at": [param.detach().clone() for param in params],
                }
            gradients(params, step)
            optimizer.step()
        found[rule]["after"] = [param.detach().clone() for param in params]
    return found


if __name__ == "__main__":
    torch.save(written(), sys.argv[1])
