"""The independent transcriptions of `golden.references` as equations of the suite."""

from typing import Any

from golden.references import REFERENCES, Array, new_state, step
from ravine.testing import Equation, State


def equation(name: str, **fixed: Any) -> Equation:
    """The whole step of a reference, with ``fixed`` for hyper-parameters that the optimizer does not have."""

    def whole(params: list[Array], grads: list[Array], state: State, h: Any) -> list[Array]:
        states = state.setdefault("each", new_state(params))
        # Values are written into the group by hand: until then nobody can foresee them.
        return step(REFERENCES[name], params, grads, states, {"next_momentum": h.get("momentum"), **fixed, **h})

    return whole
