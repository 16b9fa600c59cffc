"""What a person sees of a study: plan, progress and verdicts."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from ravine.errors import UserError

if TYPE_CHECKING:
    from ravine.study import Comparison, Plan

ASK_ABOVE_HOURS = 1.0
PLAIN_EVERY_SECONDS = 10.0  # between two progress lines where there is no terminal to draw a bar in
STYLES = {"pays": "bold green", "hurts": "bold red", "equal": "cyan", "undecided": "yellow"}


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is; wide where nobody looks through a window (a file, a pipe)."""
    made = Console(stderr=stderr, markup=False, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made.width = max(made.width, 160)
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
            TextColumn("{task.description}"),
            BarColumn(),
            _Pace(),
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=60,
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
            raise UserError(f"this takes about {plan.hours:.1f} hours: add --yes to start it, or --time 1h to shorten it")
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
    """Runs done, steps a second and time left, e.g. "120 of 768 runs, 18,400 steps/s, 2 min left"."""
    parts = []
    if "runs" in task.fields:
        parts.append(f"{task.fields['done']:,} of {task.fields['runs']:,} runs")
    if task.speed:
        parts.append(f"{task.speed:,.0f} steps/s")
    if task.time_remaining is not None and not task.finished:
        parts.append(f"{duration(task.time_remaining)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_verdicts(screen: Console, comparison: "Comparison") -> None:
    """Print what a study found: the table of contrasts, the secondary contrasts in short, the warnings."""
    found = comparison.verdict
    screen.print()
    screen.print(_verdict_table(found, comparison.cost))
    _print_short(screen, "with the same number of tuned dimensions", found["equal_dimension"], found)
    _print_short(screen, "at the defaults", found["defaults"], found)
    for horizon in found["horizons"]:
        _print_short(screen, f"stopped after {horizon['steps']} steps", horizon["contrasts"], found)
    for contrast in found["contrasts"]:
        if contrast["note"]:
            screen.print(f"{contrast['method']} versus {contrast['versus']}: {contrast['note']}", soft_wrap=True)
    for warning in found["warnings"]:
        screen.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    for caveat in found["caveats"]:
        screen.print(f"caveat: {caveat}", soft_wrap=True)


def _verdict_table(found: Mapping[str, Any], cost: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for the baseline and one per contrast."""
    title = f"{found['problem']}: does it pay? ({found['endpoint']}, margin {number(found['margin'])})"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for head in ("method", "verdict", f"difference ({found['unit']})", "seeds", "diverged", "settings", "cost"):
        table.add_column(head)
    baseline = found["baseline"]
    fitted = found["methods"][baseline]
    table.add_row(
        baseline,
        "baseline",
        f"score {number(fitted['score'])}",
        "",
        "",
        settings(fitted["settings"]),
        _cost(fitted, cost.get(baseline, {})),
    )
    for contrast in found["contrasts"]:
        method, versus = contrast["method"], contrast["versus"]
        table.add_section()
        table.add_row(
            method if versus == baseline else f"{method}\nversus {versus}",
            Text(contrast["verdict"], style=STYLES.get(contrast["verdict"], "")),
            difference(contrast, between="\n"),
            _seeds(contrast),
            _diverged(contrast),
            settings(contrast["settings"]),
            _cost(found["methods"][method], cost.get(method, {})),
        )
    return table


def _print_short(screen: Console, title: str, contrasts: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> None:
    if not contrasts:
        return
    parts = []
    for contrast in contrasts:
        name = contrast["method"]
        if contrast["versus"] != found["baseline"]:
            name += f" versus {contrast['versus']}"
        parts.append(f"{name} {contrast['verdict']} {difference(contrast, between=' ')}")
    screen.print(f"{title}: {'; '.join(parts)}", soft_wrap=True)


def difference(contrast: Mapping[str, Any], *, between: str) -> str:
    """A difference with its adjusted interval, e.g. "+0.0123 [-0.0010, +0.0256]"; positive is better."""
    low, high = (number(end, sign=True) for end in contrast["interval"])
    return f"{number(contrast['difference'], sign=True)}{between}[{low}, {high}]"


def number(value: float, *, sign: bool = False) -> str:
    """Four digits after the point for what lies around one, four significant ones elsewhere."""
    plus = "+" if sign else ""
    return f"{value:{plus}.4f}" if value == 0 or 1e-3 <= abs(value) < 100 else f"{value:{plus}.4g}"


def settings(chosen: Mapping[str, float]) -> str:
    """Hyper-parameters, one a line."""
    return "\n".join(f"{name} {value:.4g}" for name, value in chosen.items())


def _seeds(contrast: Mapping[str, Any]) -> str:
    needed = contrast["seeds_needed"]
    if contrast["verdict"] != "undecided" or needed is None:
        return str(contrast["seeds"])
    return f"{contrast['seeds']}\nneeds {needed:,}"


def _diverged(contrast: Mapping[str, Any]) -> str:
    return "{} : {}".format(*contrast["diverged"])


def _cost(fitted: Mapping[str, Any], cost: Mapping[str, float]) -> str:
    lines = [f"{fitted['trials']} trials"]
    if "gradient_equivalents" in cost:
        lines.append(f"{cost['gradient_equivalents']:.3g} gradients")
    if "seconds_per_step" in cost:
        lines.append(f"{1e3 * cost['seconds_per_step']:.3g} ms a step")
    return "\n".join(lines)
