"""Problems: what is trained. Built-in ones, a user's file, and the checks that both pass before the first step."""

from ravine.problems.checking import check
from ravine.problems.digits import digits
from ravine.problems.loading import PROBLEMS, load
from ravine.problems.problem import Problem
from ravine.problems.quadratic import quadratic
from ravine.problems.splits import Data, Split, digest, prepare

__all__ = ["PROBLEMS", "Data", "Problem", "Split", "check", "digest", "digits", "load", "prepare", "quadratic"]
