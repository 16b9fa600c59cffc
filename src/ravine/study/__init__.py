"""Studies: declare -> plan -> run -> store -> select -> infer -> verdict.

`compare` does all of it, `resume` goes on where one stopped, `load` opens what is stored, `plan` says what one would
cost.
"""

from ravine.study.api import Comparison, Silent, compare, load, plan, resume
from ravine.study.planning import Plan

__all__ = ["Comparison", "Plan", "Silent", "compare", "load", "plan", "resume"]
