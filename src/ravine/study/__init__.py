"""Studies: declare -> plan -> run -> store -> select -> infer -> verdict.

`compare` does all of it, `resume` goes on where one stopped, `load` opens what is stored, `plan` says what one would
cost.
"""

from ravine.study.api import compare, load, plan, resume
from ravine.study.comparison import Comparison
from ravine.study.listener import Silent
from ravine.study.planning import Plan

__all__ = ["Comparison", "Plan", "Silent", "compare", "load", "plan", "resume"]
