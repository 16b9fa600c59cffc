"""The command line: checks the words, calls the library, prints what it returns.

Exit codes: 0 done, 1 the work failed, 2 the words were wrong, 130 stopped by the keyboard.
"""

import errno
import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

import ravine
from ravine.errors import UserError, WorkError
from ravine.terminal import Screen, console

if TYPE_CHECKING:
    from ravine.study import Comparison

# Troubles of the machine that a person can mend; every other OSError is a fault of ours and shows its traceback.
_GO_ON = "; what was stored is kept, and `ravine resume` goes on"
_ELSEWHERE = "choose a directory that can be written, with --out"
MENDS = {
    errno.ENOSPC: "make room" + _GO_ON,
    errno.EDQUOT: "make room" + _GO_ON,
    errno.EFBIG: "lift the limit on the size of a file (ulimit -f)" + _GO_ON,
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
}

app = typer.Typer(
    name="ravine",
    help="Does momentum pay on my problem, by how much, and with which settings?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
list_app = typer.Typer(help="What there is: problems, methods, claims, data sets.", no_args_is_help=True)
data_app = typer.Typer(help="Fetch data sets, list them.", no_args_is_help=True)
app.add_typer(list_app, name="list")
app.add_typer(data_app, name="data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; what went wrong is one line on standard error."""
    try:
        app(args=arguments, prog_name="ravine")
    except UserError as error:
        _stop(str(error), 2)
    except WorkError as error:
        _stop(str(error), 1)
    except OSError as error:
        if error.errno not in MENDS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _stop(f"{error.strerror}{where}; {MENDS[error.errno]}", 1)


def _stop(sentence: str, code: int) -> None:
    print(f"ravine: {sentence}", file=sys.stderr)
    sys.exit(code)


def parse_time(text: str) -> float:
    """Seconds of "2h", "30m", "1h30m" or "90s"."""
    part = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{part}h)?(?:{part}m)?(?:{part}s)?", text.strip().lower())
    hours, minutes, seconds = (float(number or 0) for number in found.groups()) if found else (0.0, 0.0, 0.0)
    if not (total := 3600 * hours + 60 * minutes + seconds):
        raise UserError(f"--time {text!r} is no length of time: write it like 2h, 30m, 1h30m or 90s")
    return total


def parse_names(text: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--methods {text!r}: write each name once, with commas between, like sgd,momentum,adam")
    return names


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(ravine.__version__)
        raise typer.Exit


@app.command()
def compare(
    problem: Annotated[str, typer.Argument(metavar="PROBLEM", help="A built-in name or the path of a Python file.")],
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="Methods, with commas between.")
    ] = "sgd,momentum,nesterov,adam",
    baseline: Annotated[str, typer.Option(help="The method that the others are compared with.")] = "sgd",
    steps: Annotated[int | None, typer.Option(help="Training steps of a run. [default: the problem's]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a batch. [default: the problem's]")] = None,
    trials: Annotated[int, typer.Option(help="Settings tried per method.")] = 64,
    tuning_seeds: Annotated[int, typer.Option(help="Seeds per trial.")] = 3,
    seeds: Annotated[int, typer.Option(help="Fresh seeds that the winners run on.")] = 20,
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Differences up to this count as equal. [default: .01 for metrics in [0, 1], log 1.05 for losses]",
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="The metric that decides. [default: the problem's first, else the loss]")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Fit trials, seeds and steps to this time: 2h, 30m, 90s.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Run all settings on all seeds: tuning variance too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking, however long it takes.")] = False,
    executor: Annotated[
        Literal["auto", "stacked", "compiled", "single"], typer.Option(help="How runs train together.")
    ] = "auto",
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="[default: cuda where there is one]")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the study. [default: a new one in studies/]")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes. [default: one per core]")] = None,
    study_seed: Annotated[int, typer.Option(help="Seed of search points, splits and draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print verdict.json (with --plan: the plan).")] = False,
) -> None:
    """Tune each method alike, run the winners on fresh seeds and say for each whether it pays."""
    from ravine import study

    if device == "cuda":
        _require_gpu()
    words: dict[str, Any] = {
        "methods": parse_names(methods),
        "baseline": baseline,
        "steps": steps,
        "batch_size": batch_size,
        "trials": trials,
        "tuning_seeds": tuning_seeds,
        "seeds": seeds,
        "margin": margin,
        "endpoint": endpoint,
        "time": None if time is None else parse_time(time),
        "full": full,
        "executor": executor,
        "device": device,
        "out": out,
        "workers": workers,
        "study_seed": study_seed,
    }
    with Screen(yes=yes) as screen:
        if plan:
            planned = study.plan(problem, **words)
            screen.show(planned)
            if as_json:
                print(json.dumps(asdict(planned), default=str, allow_nan=False))
            return
        comparison = study.compare(problem, **words, listener=screen)
    _print_result(comparison, as_json=as_json)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a study.")],
    problem: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the problem file lies now, if it was moved.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print verdict.json.")] = False,
) -> None:
    """Go on with a study where it stopped, whatever stopped it."""
    from ravine import study

    with Screen(yes=True) as screen:
        screen.directory = directory
        comparison = study.resume(directory, problem=problem, listener=screen)
    _print_result(comparison, as_json=as_json)


@app.command()
def reproduce(
    claims: Annotated[
        list[str] | None, typer.Argument(metavar="[CLAIM]...", help="Claims, see `ravine list claims`. [default: all]")
    ] = None,
    budget: Annotated[
        Literal["quick", "evening", "paper"],
        typer.Option(help="Minutes a claim, about an hour, or the length of the paper."),
    ] = "quick",
    out: Annotated[Path, typer.Option(help="Where results are stored, and gone on with.")] = Path("reproductions"),
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="[default: cuda where there is one]")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes. [default: one per core]")] = None,
    pilot: Annotated[bool, typer.Option("--pilot", help="Search the learning rates anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Re-run what papers claim: their tables beside ours, and a verdict per claim."""
    import ravine.claims

    if device == "cuda":
        _require_gpu()
    unfinished: WorkError | None = None
    with Screen(yes=True) as screen:
        try:
            results = ravine.claims.reproduce(
                claims or ["all"],
                budget,
                out=out,
                workers=workers,
                device=device,
                listener=screen,
                fresh_pilot=pilot,
            )
        except ravine.claims.Unfinished as error:
            results, unfinished = error.results, error
    if as_json:
        print(json.dumps(results, indent=2, allow_nan=False))
    else:
        for result in results:
            _print_claim(result)
        print(f"report: {out / budget / 'index.html'}")
    if unfinished is not None:
        raise unfinished


@app.command()
def advise(
    problem: Annotated[str, typer.Argument(metavar="PROBLEM", help="A built-in name or the path of a Python file.")],
    steps: Annotated[int | None, typer.Option(help="Training steps of a run. [default: the problem's]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a batch. [default: the problem's]")] = None,
    margin: Annotated[
        float | None, typer.Option(metavar="M", help="Differences up to this count as equal. [default: as in compare]")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="The metric that decides. [default: the problem's first, else the loss]")
    ] = None,
    time: Annotated[str, typer.Option(metavar="TIME", help="Measure no longer than about this: 2m, 90s.")] = "60s",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure noise and curvature on a short run; say whether momentum should pay, and with which settings."""
    from ravine import advice

    found = advice.advise(
        problem, steps=steps, batch_size=batch_size, margin=margin, endpoint=endpoint, seconds=parse_time(time)
    )
    if as_json:
        print(json.dumps(found.as_json(), indent=2, allow_nan=False))
        return
    screen = console()
    for sentence in advice.sentences(found):
        screen.print(sentence, highlight=False)
    for caveat in found.caveats:
        screen.print(caveat, style="dim", highlight=False)


@app.command()
def report(directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a study.")]) -> None:
    """Build the report of a study again from its stored runs."""
    from ravine import study

    print(study.load(directory).report())


@list_app.command("problems")
def list_problems() -> None:
    """The built-in problems."""
    from ravine.problems import PROBLEMS

    _print_rows((name, _summary(factory)) for name, factory in PROBLEMS.items())


@list_app.command("methods")
def list_methods() -> None:
    """The methods that can be compared: what is searched, what is held fixed, the rule."""
    from ravine.study.methods import METHODS

    rows = []
    for method in METHODS.values():
        searched = ", ".join(axis.name for axis in method.axes)
        fixed = ", ".join(f"{name} {value:g}" for name, value in method.fixed.items())
        rows.append((method.name, searched, fixed, _summary(method.documented)))
    _print_rows(rows, "method", "searched", "held fixed", "rule")


@list_app.command("claims")
def list_claims() -> None:
    """The claims that can be re-run, and where they stand."""
    from ravine.claims import CLAIMS

    _print_rows(((claim.name, claim.sentence, claim.source) for claim in CLAIMS.values()), "claim", "what", "source")


@list_app.command("data")
@data_app.command("list")
def list_data() -> None:
    """The data sets that can be fetched, and whether they are here."""
    from ravine.problems.data import available

    rows = (
        (one.name, f"{one.megabytes} MB", "yes" if one.fetched else "no", one.about, one.licence) for one in available()
    )
    _print_rows(rows, "name", "download", "here", "what", "licence")


@data_app.command("fetch")
def fetch_data(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Data sets, see `ravine data list`.")],
) -> None:
    """Bring data sets into the cache, checked; what is there and whole is not fetched again."""
    from ravine.problems.data import fetch

    screen = console(stderr=True)
    for name in names:
        print(fetch(name, progress=lambda sentence: screen.print(sentence, soft_wrap=True)))


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave --device out, or give --device cpu")


def _summary(documented: object) -> str:
    """The first sentence of a docstring."""
    paragraph = (inspect.getdoc(documented) or "").split("\n\n")[0]
    return re.split(r"(?<=\.)(?<!al\.)\s", " ".join(paragraph.split()).replace("``", ""))[0]


def _print_rows(rows: Iterable[tuple[str, ...]], *heads: str) -> None:
    table = Table(*heads, box=None, show_header=bool(heads), pad_edge=False, padding=(0, 3, 0, 0))
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _print_claim(result: dict[str, Any]) -> None:
    from ravine.claims.page import MARKS, found, shown

    screen = console()
    screen.print(f"\n{result['claim']}: {result['outcome']}", style="bold")
    screen.print(f"{result['sentence']} ({result['source']})", soft_wrap=True)
    for table in result["tables"]:
        screen.print(f"\n{table['title']}")
        _print_rows((tuple(map(shown, row)) for row in table["rows"]), *table["columns"])
    screen.print()
    rows = [(f"{MARKS[one['outcome']]} {one['outcome']}", one["statement"], found(one)) for one in result["findings"]]
    _print_rows(rows, "outcome", "finding", "measured")
    for note in result["notes"]:
        screen.print(f"Note: {note}", soft_wrap=True)


def _print_result(comparison: "Comparison", *, as_json: bool) -> None:
    from ravine import summary

    summary.show(console(stderr=as_json), comparison)
    print(f"report: {comparison.directory / 'report.html'}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print((comparison.directory / "verdict.json").read_text(), end="")
