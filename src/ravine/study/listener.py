"""Who hears how a study goes and agrees to its cost."""

from typing import Protocol

from ravine.study import runner
from ravine.study.planning import Plan


class Listener(runner.Listener, Protocol):
    """Who hears how a study goes and agrees to its cost."""

    def confirm(self, plan: Plan) -> bool: ...


class Silent:
    """A listener for programs: says nothing, agrees to everything."""

    def phase(self, text: str) -> None: ...

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None: ...

    def say(self, text: str) -> None: ...

    def confirm(self, plan: Plan) -> bool:
        """Yes."""
        return True
