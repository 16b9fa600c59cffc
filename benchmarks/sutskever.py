"""Updates per second on the nets of Sutskever et al. 2013 against plain torch loops, side by side in one run.

    python benchmarks/sutskever.py [--rounds 9] [--case NAME] [--out benchmarks/results/sutskever.json]

Three autoencoders and four sequence tasks at the paper's sizes; both sides, their alternation and the interval are
those of benchmarks/fleet.py. For the autoencoders also the share of the machine's peak: the operations of their matrix
products a second, over those of one large product a core.
"""

import argparse
import statistics
import time
from operator import itemgetter
from pathlib import Path

import torch
from cases import SUTSKEVER
from loky.process_executor import ProcessPoolExecutor
from torch import nn

from fleet import Row, compare, report
from ravine.problems import Problem
from ravine.study.engine import cores

SCRATCH = Path("/tmp")


def peak(size: int = 1536, rounds: int = 12) -> float:
    """Floating-point operations a second of a large product on one thread."""
    torch.set_num_threads(1)
    left, right = torch.randn(size, size), torch.randn(size, size)
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        torch.mm(left, right)
        spent.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(spent)


def operations(problem: Problem) -> float | None:
    """Of the products of an update of a feed-forward net: forward, of weights, of all inputs but the first; or None."""
    net = problem.build()
    if not isinstance(net, nn.Sequential):
        return None
    sizes = [layer.weight.numel() for layer in net if isinstance(layer, nn.Linear)]
    return 2.0 * problem.batch_size * (3 * sum(sizes) - sizes[0])


def measure(case: str, rounds: int, workers: int) -> Row:
    """A row of benchmarks/fleet.py, with the share of the peak."""
    row = compare(case, rounds, workers, None, SCRATCH)
    count = operations(SUTSKEVER[case]())
    if count is not None:
        with ProcessPoolExecutor(max_workers=workers) as pool:
            together = sum(pool.map(peak, [1536] * workers))
        row |= {"gflop": count / 1e9, "share_of_peak": count * row["fleet"] / together}
    return row


def main() -> None:
    """Measures, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=9)
    words.add_argument("--case", choices=list(SUTSKEVER))
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sutskever.json")
    given = words.parse_args()
    names = [given.case] if given.case else list(SUTSKEVER)
    rows = [measure(name, given.rounds, cores()) for name in names]
    report(rows, "share of peak", peak_share, given.out, itemgetter("case"))  # the fleet chooses its executor


def peak_share(row: Row) -> str:
    """The share of the peak of matrix products that the updates reach, where they are counted."""
    return f"{row['share_of_peak']:.2f}" if "share_of_peak" in row else ""


if __name__ == "__main__":
    main()
