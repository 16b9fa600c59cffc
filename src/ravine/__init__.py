"""ravine: does momentum pay on my problem, by how much, why, and with which settings?

`ravine.compare(problem)` tunes every method alike, runs the winners on fresh seeds and returns a `Comparison` with a
verdict per method. `ravine.optim` holds the same update rules as drop-in `torch.optim` optimizers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ravine.errors import UserError, WorkError

if TYPE_CHECKING:
    from ravine import (
        advice,
        distributed,
        hessian_free,
        init,
        measure,
        metrics,
        monitor,
        optim,
        problems,
        rules,
        schedules,
    )
    from ravine.advice import Advice, advise
    from ravine.metrics import Metric
    from ravine.monitor import Monitor
    from ravine.problems import Problem
    from ravine.study import Comparison, compare, resume

__version__ = "0.1.0"
__all__ = [
    "Advice",
    "Comparison",
    "Metric",
    "Monitor",
    "Problem",
    "UserError",
    "WorkError",
    "__version__",
    "advice",
    "advise",
    "compare",
    "distributed",
    "hessian_free",
    "init",
    "measure",
    "metrics",
    "monitor",
    "optim",
    "problems",
    "resume",
    "rules",
    "schedules",
]

# Where a name lives. It is imported on first use, so `import ravine` (and `ravine --help`) need not wait for torch.
_HOME = {
    "Advice": "ravine.advice",
    "Comparison": "ravine.study",
    "Metric": "ravine.metrics",
    "Monitor": "ravine.monitor",
    "Problem": "ravine.problems",
    "advise": "ravine.advice",
    "compare": "ravine.study",
    "resume": "ravine.study",
}
_MODULES = {name for name in __all__ if name.islower() and name not in {*_HOME, "__version__"}}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"ravine.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ravine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
