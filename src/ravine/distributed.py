"""Training on several workers that send one bit a coordinate: a communication hook for DistributedDataParallel.

Bernstein et al. 2019 ("signSGD with majority vote is communication efficient and fault tolerant"), Algorithm 1: every
worker votes with the sign of its own velocity, and all move by the sign that most have.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from ravine.rules import Signum

__all__ = ["MajorityVote", "ballots", "majority", "majority_vote_hook", "pack", "unpack"]

_BITS = 8


class MajorityVote:
    """What a worker keeps from vote to vote: its velocities, the number of votes, and the bytes that it sent.

    momentum: of m <- momentum m + (1 - momentum) g, m = 0 at the start, in [0, 1); the worker votes with the sign of m.
        0 is signSGD, .9 is Signum. m is the worker's own and lives with the process: it is in no checkpoint.
    process_group: the workers that vote; None is all of them. Give the group of DistributedDataParallel.
    steps: votes on all parameters so far. sent: bytes that this worker has sent to others.

    Raises UserError for a momentum out of range.
    """

    def __init__(self, momentum: float = 0.9, process_group: dist.ProcessGroup | None = None) -> None:
        Signum.hyper["momentum"].check("momentum", momentum)
        self.momentum, self.process_group = momentum, process_group
        self.steps = self.sent = 0
        self._velocities: dict[Tensor, Tensor] = {}  # by parameter: buckets are made anew after the first step

    def accelerate(self, bucket: dist.GradBucket) -> None:  # type: ignore[name-defined]  # torch has no stub of it
        """Puts the velocities in the place of the gradients of a bucket."""
        if self.momentum == 0:
            return
        for param, grad in zip(bucket.parameters(), bucket.gradients(), strict=True):
            if param not in self._velocities:
                self._velocities[param] = torch.zeros_like(grad)
            grad.copy_(self._velocities[param].lerp_(grad, 1 - self.momentum))


def majority_vote_hook(
    state: MajorityVote,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> Future[Tensor]:
    """A hook for `DistributedDataParallel.register_comm_hook`: gradients become +1 or -1, what most workers vote for.

    With `ravine.optim.SGD` this is Signum with majority vote: w <- w - lr sign(sum of sign(m_i)), and weight decay is
    added to the sign. Every worker counts the votes on its share of the coordinates and sends the outcome to all, so
    that n coordinates among M workers cost each (M - 1) / M n bits for the votes and as many for the outcomes: with M
    dividing the n / 8 bytes, 1/32 of what a ring all-reduce of float32 sends.

    One bit knows no zero. A coordinate that is 0 votes for +1 at even steps and for -1 at odd ones, and a tie goes the
    way of the worker with rank step mod M: neither drifts. NaN votes for -1.

    Fewer than half of the *voters* may send anything at all; the counting is trusted. The hook waits for the votes of a
    bucket before the next, so communication does not overlap with the backward pass.
    """
    state.accelerate(bucket)
    buffer = bucket.buffer()
    group = state.process_group
    workers = dist.get_world_size(group)
    packed = pack(ballots(buffer, state.steps), workers)
    votes = torch.empty_like(packed)
    dist.all_to_all_single(votes, packed, group=group)
    counted = pack(majority(unpack(votes), state.steps), 1)
    outcome = torch.empty_like(packed)
    dist.all_gather(list(outcome.unbind()), counted[0], group=group)
    buffer.copy_(unpack(outcome).flatten()[: buffer.numel()]).mul_(2).sub_(1)
    state.sent += 2 * (workers - 1) * counted.numel()
    state.steps += bucket.is_last()
    done: Future[Tensor] = Future()
    done.set_result(buffer)
    return done


def ballots(values: Tensor, step: int) -> Tensor:
    """The vote of each value, True for +1: its sign, and for 0 what the step says (True at even steps)."""
    return values >= 0 if step % 2 == 0 else values > 0


def majority(votes: Tensor, step: int) -> Tensor:
    """What most workers vote for, (workers, ...) bool -> (...) bool; a tie goes to the worker `step` mod workers."""
    workers = len(votes)
    twice = 2 * votes.sum(0)
    return torch.where(twice == workers, votes[step % workers], twice > workers)


def pack(bits: Tensor, shares: int) -> Tensor:
    """(n,) bool -> (shares, ceil(n / 8 / shares)) uint8, eight bits a byte, the lowest first, zeros at the end."""
    size = -(-bits.numel() // (_BITS * shares))
    padded = bits.new_zeros(shares * size * _BITS)
    padded[: bits.numel()] = bits.flatten()
    places = 2 ** torch.arange(_BITS, device=bits.device, dtype=torch.uint8)
    return (padded.view(shares, size, _BITS) * places).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """(shares, bytes) uint8 -> (shares, 8 bytes) bool."""
    places = 2 ** torch.arange(_BITS, device=packed.device, dtype=torch.uint8)
    return ((packed.unsqueeze(-1) & places) != 0).flatten(-2)
