"""Bernstein, Zhao, Azizzadenesheli and Anandkumar, "signSGD with majority vote is communication efficient and fault
tolerant", ICLR 2019: a bound, the toy problem of signSGD, trainings of many crews in one process, and real processes.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from loky.process_executor import ProcessPoolExecutor
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.crew import Method, Scale, drawn, judged, slopes, trained, tuned
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, NET, SAME, rows_of_digits
from ravine.claims.rows import Descent
from ravine.claims.signsgd import NOISE, SIGN_RATE, starts
from ravine.distributed import MajorityVote, ballots, majority, majority_vote_hook
from ravine.optim import SGD

PAPER = "Bernstein et al., ICLR 2019 (arXiv 1810.05291)"
LEARNS, FAILS = 0.2, 0.5  # test errors
MOMENTUM = 0.9
PROCESSES = 3
PATIENCE = timedelta(minutes=5)  # with a process that does not come, or does not answer
EQUAL_STEPS = 20  # later, rounding may have turned a sign
LAYER = 2_000  # units of the layer on which bytes are counted, and its inputs
GRIDS: Mapping[str, Sequence[float]] = {
    "average": (0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    "average, momentum": (0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
    "vote": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
    "vote, momentum": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
}


@dataclass(frozen=True)
class Election:
    """The trainings in one process, and the updates and seeds of those in real ones."""

    crew: Scale
    real_steps: int
    real_seeds: int
    toy_seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        real = f"{PROCESSES} processes, {self.real_steps:,} updates, {self.real_seeds} seeds"
        return f"{self.crew.words}; {real}"


ELECTIONS: Mapping[Budget, Election] = {
    "quick": Election(Scale(5, 300, 16, 10, 3), 150, 3, 20),
    "evening": Election(Scale(5, 2_000, 16, 20, 5), 1_000, 5, 100),
}


def wrong_outcome(error: float, workers: int, liars: int) -> float:
    """The chance that a vote is wrong, when honest workers err with chance `error` and liars send the opposite.

    A tie counts as wrong.
    """
    honest = stats.binom.pmf(np.arange(workers - liars + 1), workers - liars, 1 - error)
    lying = stats.binom.pmf(np.arange(liars + 1), liars, error)
    return float(np.convolve(honest, lying)[: workers // 2 + 1].sum())


def bound() -> Finding:
    """The chance of a wrong outcome against 1 / ((1 - 2 alpha) sqrt(M) S), for Gaussian noise."""
    crews = [(workers, liars) for workers in (1, 3, 5, 7, 15, 31, 63) for liars in range((workers + 1) // 2)]
    excess = [
        wrong_outcome(float(stats.norm.cdf(-strength)), workers, liars)
        - 1 / ((1 - 2 * liars / workers) * workers**0.5 * strength)
        for workers, liars in crews
        for strength in np.geomspace(0.001, 10, 41)
    ]
    return criteria.exact(
        "Under Gaussian noise, a vote of M workers of whom a share alpha lie is wrong with chance at most "
        "1 / ((1 - 2 alpha) sqrt(M) S), where the gradient is S standard deviations",
        max(0.0, *excess),
        1e-12,
        f"largest excess in {len(excess):,} cases",
    )


def toy_vote(liars: int, seeds: int, workers: int = 7, steps: int = 1_000) -> Tensor:
    """(seeds,): f at the end by f at the start, the workers voting with the signs of noisy gradients."""
    generator = torch.Generator().manual_seed(3)
    rows = starts(seeds)
    first = rows.square().sum(1)
    for step in range(steps):
        noisy = rows.repeat(workers, 1, 1)
        noisy[..., 0] += NOISE * torch.randn(workers, seeds, dtype=torch.float64, generator=generator)
        noisy[:liars] *= -1
        rows = rows - SIGN_RATE * signs(majority(ballots(noisy, step), step), rows.dtype)
    return rows.square().sum(1) / first


def signs(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """+1 where True, -1 where False."""
    return 2 * bits.to(dtype) - 1


def toy_votes(seeds: int) -> Iterator[Finding]:
    """With up to 3 liars of 7 the toy problem is solved, with 4 it is not."""
    unit = "f at the end by f at the start"
    for liars in range(4):
        statement = f"Toy problem, 7 workers: solved with {liars} liars"
        yield criteria.below(statement, toy_vote(liars, seeds).tolist(), 0.05, unit)
    yield criteria.above("Toy problem, 7 workers: diverges with 4 liars", toy_vote(4, seeds).tolist(), 1.0, unit)


def decay(step: int, steps: int) -> float:
    """The factor of the learning rate at a step, for every method: linear, down to 0."""
    return 1 - step / steps


def average(starts: Tensor, lr: Tensor, batches: Tensor, *, momentum: float = 0.0) -> Tensor:
    """A `crew.Method`: all workers step along the mean of their gradients, in heavy-ball form."""
    descent = Descent("momentum", starts, lr=lr, momentum=momentum)
    for step, index in enumerate(batches):
        mean = slopes(descent.rows.unsqueeze(1), index).mean(1)
        descent.step(mean, lr=lr * decay(step, len(batches)))
    return descent.rows


def vote(starts: Tensor, lr: Tensor, batches: Tensor, *, momentum: float = 0.0, liars: int = 0) -> Tensor:
    """A `crew.Method`: all workers step along what most vote for with the signs of their velocities, in EMA form."""
    descent = Descent("sgd", starts, lr=lr)
    velocities = starts.new_zeros(len(starts), batches.shape[2], starts.shape[1])
    for step, index in enumerate(batches):
        found = slopes(descent.rows.unsqueeze(1), index)
        found[:, :liars] *= -1
        velocities.lerp_(found, 1 - momentum)
        outcome = majority(ballots(velocities, step).transpose(0, 1), step)
        descent.step(signs(outcome, starts.dtype), lr=lr * decay(step, len(batches)))
    return descent.rows


METHODS: Mapping[str, Method] = {
    "average": average,
    "average, momentum": partial(average, momentum=MOMENTUM),
    "vote": vote,
    "vote, momentum": partial(vote, momentum=MOMENTUM),
}


# Real processes.


@dataclass(frozen=True)
class Job:
    """A training by processes: learning rate, momentum and number of liars; start (P,), rows (steps, workers, size)."""

    lr: float
    momentum: float
    liars: int
    start: Tensor
    batches: Tensor


class Row(nn.Module):
    """The net on the digits whose parameters are one row."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = nn.Parameter(row.clone())

    def forward(self, x: Tensor) -> Tensor:
        return NET.outputs(self.row.unsqueeze(0), x)[0]


def elect(jobs: Sequence[Job]) -> tuple[list[Tensor], dict[str, float]]:
    """What `PROCESSES` processes with the hook make of each job, and the bytes that they send for a layer."""
    with tempfile.TemporaryDirectory() as meeting, ProcessPoolExecutor(PROCESSES) as pool:
        waiting = [pool.submit(_work, rank, f"file://{meeting}/meet", jobs) for rank in range(PROCESSES)]
        found = [one.result() for one in waiting]
    return found[0]  # type: ignore[no-any-return]


def _work(rank: int, meeting: str, jobs: Sequence[Job]) -> tuple[list[Tensor], dict[str, float]]:
    """One of the processes."""
    torch.set_num_threads(1)
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES, timeout=PATIENCE)
    try:
        return [_trained(rank, job) for job in jobs], _bytes()
    finally:
        dist.destroy_process_group()


def _trained(rank: int, job: Job) -> Tensor:
    (inputs, targets), _ = rows_of_digits()
    model = DistributedDataParallel(Row(job.start))
    model.register_comm_hook(MajorityVote(job.momentum), majority_vote_hook)
    optimizer = SGD(model.parameters(), lr=job.lr)
    for step, index in enumerate(job.batches[:, rank]):
        optimizer.param_groups[0]["lr"] = job.lr * decay(step, len(job.batches))
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs[index].to(job.start.dtype)), targets[index])
        (-loss if rank < job.liars else loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    (row,) = model.parameters()
    return row.detach()


def _bytes() -> dict[str, float]:
    """Bytes that this process sends for the gradients of LAYER^2 coordinates, averaged and voted on.

    Counted by the operating system where it does (Linux), else what the hook says and what a ring sends.
    """
    found: dict[str, float] = {}
    state = MajorityVote(0.0)
    for name in ("average", "vote"):
        model = DistributedDataParallel(nn.Linear(LAYER, LAYER, bias=False), bucket_cap_mb=100)
        if name == "vote":
            model.register_comm_hook(state, majority_vote_hook)
        dist.barrier()
        before = _written()
        model(torch.ones(1, LAYER)).sum().backward()
        dist.barrier()
        found[name] = _written() - before
    ring = 2 * (PROCESSES - 1) / PROCESSES * 4 * LAYER**2
    return found if math.isfinite(found["vote"]) else {"average": ring, "vote": state.sent}


def _written() -> float:
    """Bytes that this process has written, to sockets too; nan where the system does not tell."""
    counters = Path("/proc/self/io")
    return float(counters.read_text().split("wchar: ")[1].split()[0]) if counters.exists() else math.nan


def _real(scale: Election, rate: float) -> Iterator[Finding]:
    """The hook in processes: against the equation, its bytes, and with liars."""
    seeds = range(scale.real_seeds)
    batches = drawn(scale.real_steps, scale.crew.rows, PROCESSES, seeds)
    start = NET.start(seeds)
    exactly = Job(rate, MOMENTUM, 0, start[0].double(), batches[:EQUAL_STEPS, 0])
    jobs = [Job(rate, MOMENTUM, liars, start[k], batches[:, k]) for liars in (1, 2) for k in seeds]
    nets, sent = elect([exactly, *jobs])
    expected = vote(
        start[:1].double(), torch.tensor([rate], dtype=torch.float64), batches[:EQUAL_STEPS, :1], momentum=MOMENTUM
    )
    yield criteria.exact(
        f"{PROCESSES} processes with the hook take the steps of the equation ({EQUAL_STEPS} updates in float64)",
        float((nets[0] - expected[0]).abs().max()),
        1e-12,
        "largest deviation of a parameter",
    )
    share = 2 * (PROCESSES - 1) / PROCESSES / 8  # of a byte for each coordinate, votes and outcomes
    yield criteria.holds(
        "A worker sends a bit a coordinate for its votes and a bit for outcomes, but for what it counts itself",
        "the bytes are within 1 % of 2 (M - 1) / M bits a coordinate",
        abs(sent["vote"] / LAYER**2 / share - 1) < 0.01,
        8 * sent["vote"] / LAYER**2,
        f"bits a coordinate, {PROCESSES} processes",
    )
    yield criteria.holds(
        "That is 1/32 of what averaging float32 sends",
        "the ratio of bytes is within 2 % of it",
        abs(32 * sent["vote"] / sent["average"] - 1) < 0.02,
        sent["vote"] / sent["average"],
        "bytes of a vote by bytes of an average",
    )
    _, error = judged(torch.stack(nets[1:]))
    few, many = error.view(2, -1).tolist()
    yield criteria.below(f"Digits: with 1 liar of {PROCESSES} processes it still learns", few, LEARNS, ERROR)
    yield criteria.above(f"Digits: with 2 liars of {PROCESSES} processes it does not", many, FAILS, ERROR)


def majority_vote(laboratory: Laboratory) -> Evidence:
    """All parts."""
    scale = ELECTIONS[laboratory.budget]
    crew = scale.crew
    found = {name: tuned(method, GRIDS[name], crew) for name, method in METHODS.items()}
    rate = found["vote, momentum"].rate
    lying = {
        liars: trained(partial(vote, momentum=MOMENTUM, liars=liars), rate, range(crew.seeds), crew)
        for liars in range(crew.workers + 1)
    }
    errors = [error[0].tolist() for _, error in lying.values()]
    stands = (crew.workers - 1) // 2
    findings = [
        bound(),
        *toy_votes(scale.toy_seeds),
        *(
            criteria.less(
                f"Digits: {name}: no more test errors than averaged gradients make, up to {SAME:g}",
                found[name].error,
                found[name.replace("vote", "average")].error,
                ERROR,
                SAME,
            )
            for name in ("vote", "vote, momentum")
        ),
        criteria.below(f"Digits: with {stands} liars of {crew.workers} it still learns", errors[stands], LEARNS, ERROR),
        criteria.above(f"Digits: with {stands + 1} liars it does not", errors[stands + 1], FAILS, ERROR),
        *_real(scale, rate),
    ]
    rows: list[Sequence[Cell]] = [[name, one.rate, shown(one.error), shown(one.loss)] for name, one in found.items()]
    table = Table(
        f"Digits, {crew.workers} workers without liars, {crew.steps:,} updates",
        ["method", "learning rate", "test error", "training loss"],
        rows,
    )
    chart = figure(
        [series("majority vote with momentum", list(lying), errors)],
        "Test error on the digits against the number of liars among the workers",
        f"liars among {crew.workers} workers",
        "test error, a share",
    )
    notes = [
        "A liar sends the opposite of its signs. The counting is honest, as on the paper's server.",
        "Against such liars averaging is only slowed down; what breaks it is a liar that sends large numbers, which a "
        "vote cannot hear.",
        "Votes are in EMA form, averages in heavy-ball form. Learning rates are the best of six, on other seeds, and "
        "fall linearly to 0.",
        "The paper trains ResNet-50 on ImageNet on up to 15 machines. For ResNet-20 on CIFAR-10 their code gives "
        "validation accuracies of .9116 with signs (best momentum 0) and of .9168 with SGD, at the best of grids.",
        "Seconds are not judged here: processes of one machine share its cores.",
        *(f"{name}: the best learning rate, {one.rate:g}, is at an edge." for name, one in found.items() if one.edge),
    ]
    return Evidence(findings, [table], {"Test error against liars": chart}, notes)


CLAIMS = (
    Claim(
        name="majority-vote",
        sentence="A majority vote of signs trains as well as averaged gradients, sends one bit a coordinate each way, "
        "and stands liars as long as they are fewer than half.",
        source=f"{PAPER}, Algorithm 1, Theorem 2 and experiments",
        plans={budget: scale.words for budget, scale in ELECTIONS.items()},
        investigate=majority_vote,
    ),
)
