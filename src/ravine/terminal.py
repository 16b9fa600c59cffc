"""What a person sees of a study while it works: the plan, the question, the progress."""

import sys
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from ravine.errors import UserError

if TYPE_CHECKING:
    from ravine.study import Plan

ASK_ABOVE_HOURS = 1.0
PLAIN_EVERY_SECONDS = 10.0  # between two progress lines where there is no terminal to draw a bar in


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is, and wraps nothing where there is no window (a file, a pipe)."""
    made = Console(stderr=stderr, markup=False, highlight=False)
    if not made.is_terminal:
        made.width = 1000
    return made


class Screen:
    """Listens to a study and shows it on standard error: a bar in a terminal, plain lines elsewhere.

    `yes` answers the question that a plan above one hour asks.
    """

    def __init__(self, *, yes: bool = False) -> None:
        self.directory: Path | None = None  # where the study is stored, known once it is planned
        self._yes = yes
        self._console = console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            _Pace(table_column=Column(no_wrap=True)),
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=60,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None)
        self._printed = time.monotonic()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if isinstance(error, KeyboardInterrupt):
            self.say(f"stopped; go on with: ravine resume {self.directory}" if self.directory else "stopped")
            raise typer.Exit(130) from None

    def say(self, text: str) -> None:
        """One line of news."""
        self._console.print(text, soft_wrap=True)

    def phase(self, text: str) -> None:
        """The study turns to `text`."""
        self._bar.update(self._task, description=text)
        if self._bar.disable:
            self.say(text)
            self._printed = time.monotonic()

    def progress(self, done_steps: int, total_steps: int, runs_done: int, runs: int) -> None:
        """`done_steps` of `total_steps` run-steps and `runs_done` of `runs` runs are done."""
        self._bar.start()
        self._bar.update(self._task, completed=done_steps, total=total_steps, done=runs_done, runs=runs)
        if self._bar.disable and time.monotonic() - self._printed >= PLAIN_EVERY_SECONDS:
            task = self._bar.tasks[0]
            self.say(f"{task.description}: {pace(task)}")
            self._printed = time.monotonic()

    def confirm(self, plan: "Plan") -> bool:
        """Print the plan and, above one hour, ask. Raises UserError when there is nobody to ask."""
        self.directory = plan.directory
        self.show(plan)
        if self._yes or plan.hours <= ASK_ABOVE_HOURS:
            return True
        if not (sys.stdin.isatty() and self._console.is_terminal):
            raise UserError(
                f"this takes about {plan.hours:.1f} hours: add --yes to start it, or --time 1h to shorten it"
            )
        if typer.confirm("start?", default=True, err=True):
            return True
        self.say("nothing was started")
        raise typer.Exit(1)

    def show(self, plan: "Plan") -> None:
        """Print a plan."""
        for line in plan.lines:
            self.say(line)


class _Pace(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        return Text(pace(task))


def pace(task: Task) -> str:
    """Runs done, steps a second and time left, e.g. "120 of 768 runs, 18,400 steps/s, 0:02:05 left"."""
    parts = []
    if "runs" in task.fields:
        parts.append(f"{task.fields['done']:,} of {task.fields['runs']:,} runs")
    if task.speed:
        parts.append(f"{task.speed:,.0f} steps/s")
    if task.time_remaining is not None and not task.finished:
        parts.append(f"{timedelta(seconds=round(task.time_remaining))} left")
    return ", ".join(parts)
