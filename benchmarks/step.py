"""One optimizer step against torch's and pytorch-optimizer's, and against the bandwidth of the machine's memory.

    python benchmarks/step.py [--rules nesterov adam] [--shapes 10x1000000] [--rounds 7] [--out FILE]

One grid: every rule on some numbers of tensors and elements, in float32; SGDP and AdamP a second time with a threshold
at which they project. The ways to step (ours, eager and compiled, and the peers') share parameters and gradients, have
each a state of its own, are warm, and take turns in a random order; a peer has the same hyper-parameters. Before a way
is timed it takes a step, so that the cache holds what it can of its tensors, whichever way was timed before. "As fast
as" is the peer's time over ours: the median over rounds, with Student's 95 % interval on the logarithm.

The physical limit: a step reads parameter, gradient and state, and writes parameter and state, at the bandwidth of a
copy within memory, which is measured in the same rounds. The share of it that a step reaches says something where the
tensors do not fit into the cache, and can be above one: a copy also fetches the lines that it overwrites, which is not
counted, and a step has read most of what it writes. So torch's fused momentum steps beside pytorch-optimizer, which is
to be beaten three times over: its kernel reads three tensors and writes two, once each, with next to no arithmetic.
Where it would need more than a third of the peer's time for as many bytes as the rule moves, that limit is left out,
except for a thousand small tensors, where time goes by tensors and not by bytes.

A run of a part of the grid keeps the other rows of the file, if the machine, the threads and the versions are the same.
"""

import argparse
import gc
import json
import math
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fleet import interval
from ravine.optim import OF_RULE, RuleOptimizer, for_rule
from ravine.study.declare import machine, versions

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, int, int]
Make: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]

SHAPES = ((10, 100_000), (10, 1_000_000), (10, 10_000_000), (1000, 1000))
"""Numbers of tensors, and of elements in each."""

COPIED = 32 * 1024**2
"""Elements of the copy that measures the bandwidth: several times the cache."""

BEYOND_CACHE = 64 * 1024**2
"""Bytes of parameters, gradients and state from which a step is held against the limit."""

OURS = ("eager", "compiled")

SLICE = 0.03  # seconds that a way gets in a round, at least one step

FUSED: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""Torch's optimizer of the rules that it has as one kernel."""

CASES: dict[str, tuple[str, dict[str, float]]] = {
    **{rule: (rule, {}) for rule in OF_RULE},
    "sgdp-projecting": ("sgdp", {"delta": 1e3}),
    "adamp-projecting": ("adamp", {"delta": 1e3}),
}
"""Rules and their options. Few random gradients are orthogonal enough to be projected, and to project takes longer."""

UNFUSED: dict[str, Callable[..., torch.optim.Optimizer]] = {"rmsprop": torch.optim.RMSprop, "nadam": torch.optim.NAdam}
"""Torch's optimizer of the others that it has."""

PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ema-momentum": ("QHM", {"momentum": 0.9, "nu": 1.0}),
    "ema-nesterov": ("QHM", {"momentum": 0.9, "nu": 0.9}),
    "qhm": ("QHM", {"momentum": 0.999, "nu": 0.7}),
    "aggmo": ("AggMo", {}),
    "sgdp": ("SGDP", {"momentum": 0.9}),
    "signsgd": ("SignSGD", {"momentum": 0.0}),
    "signum": ("SignSGD", {"momentum": 0.9}),
    "lion": ("Lion", {}),
    "adamp": ("AdamP", {}),
}
"""The class of pytorch-optimizer with the same rule, and what makes it that."""


STREAM: Make = partial(torch.optim.SGD, lr=1e-3, momentum=0.9, fused=True)
"""How fast bytes can be moved by a step: torch's kernel of momentum, which moves each once."""

STREAM_PASSES = 5  # it reads parameter, gradient and velocity, and writes parameter and velocity


def peers(case: str) -> dict[str, Make]:
    """The peers' ways to step in a case."""
    ways: dict[str, Make] = {}
    rule, given = CASES[case]
    if theirs := FUSED.get(rule) or UNFUSED.get(rule):
        ways |= {"single": partial(theirs, lr=1e-3, foreach=False), "foreach": partial(theirs, lr=1e-3, foreach=True)}
    if rule in FUSED:
        ways["fused"] = partial(FUSED[rule], lr=1e-3, fused=True)
    if rule in PEERS and (library := pytorch_optimizer()):
        name, options = PEERS[rule]
        ways["pytorch-optimizer"] = partial(getattr(library, name), lr=1e-3, **options, **given)
        ways["stream"] = STREAM
    return ways


def pytorch_optimizer() -> Any:
    """The library, if it is installed: it is no dependency."""
    try:
        import pytorch_optimizer as library
    except ImportError:
        return None
    return library


class Way:
    """A warm way to step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.step: Callable[[], object] = optimizer.step
        began = time.perf_counter()
        self.step()
        self.first = time.perf_counter() - began
        self.steps = 1
        self.step()
        usual = min(self.seconds() for _ in range(2))
        self.steps = max(1, min(100, round(SLICE / usual)))

    def seconds(self) -> float:
        """The time of a step, after one that is not timed."""
        self.step()
        began = time.perf_counter()
        for _ in range(self.steps):
            self.step()
        return (time.perf_counter() - began) / self.steps


class Copy:
    """A copy within memory, next to the steps."""

    def __init__(self) -> None:
        self.source, self.target = torch.ones(COPIED), torch.ones(COPIED)

    def seconds(self) -> float:
        """Seconds a byte, read or written."""
        began = time.perf_counter()
        self.target.copy_(self.source)
        return (time.perf_counter() - began) / (2 * self.source.nbytes)


def parameters(tensors: int, numel: int) -> list[Tensor]:
    """Matrices with gradients: some rules look at rows."""
    generator = torch.Generator().manual_seed(0)
    rows = 10 ** (round(math.log10(numel)) // 2)
    params = [torch.randn(rows, numel // rows, generator=generator).requires_grad_() for _ in range(tensors)]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


def ours(case: str, params: list[Tensor], compiled: bool = False) -> RuleOptimizer:
    rule, options = CASES[case]
    optimizer = for_rule(rule, params, {"lr": 1e-3, **options})
    if compiled:
        torch._dynamo.reset()
        optimizer.compile()
    return optimizer


def measure(case: str, tensors: int, numel: int, rounds: int) -> Row:
    """One row of the table."""
    params = parameters(tensors, numel)
    eager = ours(case, params)
    ways = {"eager": Way(eager), "compiled": Way(ours(case, params, compiled=True))}
    ways |= {name: Way(make(params)) for name, make in peers(case).items()}
    state = sum(value.nbytes for values in eager.state.values() for value in values.values())
    slots = len(eager.rule.slots)
    passes = 3 + 2 * slots + eager.rule.normed  # the norm of all takes the gradient once more
    passes += 0 if eager.rule.elementwise else 1 + slots  # so does a projection the parameter and the state
    moved = passes * 4 * tensors * numel
    times = alternating({**ways, "copy": Copy()}, rounds)
    bandwidth = [moved * seconds for seconds in times.pop("copy")]
    return {
        "rule": case,
        "tensors": tensors,
        "numel": numel,
        "rounds": rounds,
        "ms": {name: 1e3 * statistics.median(spent) for name, spent in times.items()},
        "as_fast_as": {
            f"{one} / {other}": compared(times[other], times[one])
            for one in OURS
            for other in times
            if other not in OURS
        },
        "bytes_moved": moved,
        "copy_gb_s": 1e-9 * moved / statistics.median(bandwidth),
        "share_of_bandwidth": {one: compared(bandwidth, times[one]) for one in OURS},
        "first_ms": {name: 1e3 * way.first for name, way in ways.items() if name != "compiled"},
        "compile_s": ways["compiled"].first,
        "state_bytes": state,
        "bytes_beyond_state": allocated(ours(case, params).step)[0] - state,
        "bytes_during_step": {one: allocated(ways[one].step)[1] for one in OURS},
    }


def alternating(ways: Mapping[str, Way | Copy], rounds: int) -> dict[str, list[float]]:
    """The seconds of each way in each round, in a random order: after a copy a step can take a quarter longer."""
    names, generator = list(ways), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        generator.shuffle(names)
        for name in names:
            times[name].append(ways[name].seconds())
    return times


def compared(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """How many times as fast ours is: median, and the interval."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return [statistics.median(ratios), *interval(ratios)]


def allocated(step: Callable[[], object]) -> tuple[int, int]:
    """Bytes that a step leaves allocated, and that it has allocated at most while it runs."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiled.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return now, most


THRICE = 3.0


def allowed(row: Row) -> float:
    """How many times as fast as pytorch-optimizer the rule is if it moves its bytes as fast as `STREAM` does.

    Any number of times where that was not measured, or is not a matter of bytes.
    """
    passes = row["bytes_moved"] / (4 * row["tensors"] * row["numel"])
    spent = row["ms"]
    if "stream" not in spent or small(row):
        return math.inf
    return float(spent["pytorch-optimizer"] / (spent["stream"] * passes / STREAM_PASSES))


def small(row: Row) -> bool:
    """Whether a step is a matter of the number of tensors."""
    return bool(row["tensors"] >= 1000)


def limits(row: Row) -> list[tuple[str, float, float]]:
    """What a row is to reach: in words, the value, and its least admissible value."""
    rule = row["rule"]
    fast, shares, found = row["as_fast_as"], row["share_of_bandwidth"], []
    if rule in FUSED:
        best = min(("single", "foreach", "fused"), key=lambda name: row["ms"][name])
        if small(row):
            found.append(("compiled, of fused", fast["compiled / fused"][0], 1 / 1.5))
            found.append(("compiled in 10 s", 10 / row["compile_s"], 1.0))
        else:
            found.append((f"compiled, of torch's fastest ({best})", fast[f"compiled / {best}"][0], 0.95))
        found.append(("eager, of single", fast["eager / single"][0], 1.0))
        found.append(("eager, of fused", fast["eager / fused"][0], 0.25 if small(row) else 0.5))
        return found
    if "compiled / pytorch-optimizer" in fast and allowed(row) >= THRICE:
        found.append(("compiled, of pytorch-optimizer", fast["compiled / pytorch-optimizer"][0], THRICE))
    if row["bytes_moved"] > BEYOND_CACHE:
        found.append(("compiled, of the bandwidth", shares["compiled"][0], 0.8))
        found.append(("eager, of the bandwidth", shares["eager"][0], 0.6))
    found.append(("bytes allocated in a compiled step", 1.0 - row["bytes_during_step"]["compiled"] / 4096, 0.0))
    return found


def show(rows: list[Row]) -> None:
    """The table, and which limits are missed."""
    console = Console(width=200)
    others = ["single", "foreach", "fused", "pytorch-optimizer", "stream"]
    words = ["rule", "tensors", *(f"{name}, ms" for name in ("eager", "compiled", *others))]
    table = Table(*words, "of bandwidth", "first, ms", "compile, s", "temporaries, MB", "misses")
    table.columns[0].min_width = max(map(len, CASES))
    for row in rows:
        spent = [f"{row['ms'][name]:.3g}" if name in row["ms"] else "" for name in ("eager", "compiled", *others)]
        share = " ".join(f"{row['share_of_bandwidth'][way][0]:.2f}" for way in ("eager", "compiled"))
        room = " ".join(f"{row['bytes_during_step'][way] / 2**20:.1f}" for way in ("eager", "compiled"))
        missed = "; ".join(f"{what} {value:.2f} < {least:.2f}" for what, value, least in limits(row) if value < least)
        shape = f"{row['tensors']:,} x {row['numel']:,}"
        first = f"{row['first_ms']['eager']:.3g}"
        table.add_row(row["rule"], shape, *spent, share, first, f"{row['compile_s']:.1f}", room, missed)
    console.print(table)
    met = [value >= least for row in rows for _, value, least in limits(row)]
    beyond = sum("pytorch-optimizer" in row["ms"] and allowed(row) < THRICE for row in rows)
    console.print(
        f"{sum(met)} of {len(met)} limits are met; {beyond} more are beyond the speed of torch's fused momentum"
    )


def shape(word: str) -> tuple[int, int]:
    """10x1000 -> (10, 1000)."""
    tensors, numel = word.split("x")
    return int(tensors), int(numel)


def setting() -> Row:
    """What the numbers hold for."""
    try:
        peer = {"pytorch_optimizer": version("pytorch_optimizer")}
    except PackageNotFoundError:
        peer = {}
    return {"machine": machine("cpu"), "threads": torch.get_num_threads(), "versions": {**versions(), **peer}}


def ordered(rows: Mapping[Key, Row]) -> list[Key]:
    """By rule, as they are listed, and by shape."""
    order = {case: k for k, case in enumerate(CASES)}
    return sorted(rows, key=lambda key: (order[key[0]], *key[1:]))


def keep(path: Path, where: Row, rows: Mapping[Key, Row]) -> None:
    """Writes the file aside and renames it: it is whole at any moment."""
    aside = path.with_suffix(".writing")
    aside.write_text(json.dumps({**where, "rows": [rows[key] for key in ordered(rows)]}, indent=2) + "\n")
    aside.replace(path)


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rules", nargs="+", choices=list(CASES), default=list(CASES), metavar="RULE")
    words.add_argument("--shapes", nargs="+", type=shape, default=list(SHAPES), metavar="TENSORSxNUMEL")
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step.json")
    given = words.parse_args()
    kept: Row = json.loads(given.out.read_text()) if given.out.exists() else {}
    where = setting()
    rows = {}
    if {name: kept.get(name) for name in where} == where:
        rows = {(row["rule"], row["tensors"], row["numel"]): row for row in kept["rows"]}
    warnings.filterwarnings("ignore", module="torch")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # so that everything is compiled for the first time
        for rule in given.rules:
            for tensors, numel in given.shapes:
                rows[rule, tensors, numel] = measure(rule, tensors, numel, given.rounds)
                keep(given.out, where, rows)
                gc.collect()
    show([rows[key] for key in ordered(rows) if key[0] in given.rules and key[1:] in given.shapes])


if __name__ == "__main__":
    main()
