"""Votes and bits in one process, and the hook in three: its steps are the equation's, and its bytes are counted."""

import math
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from ravine.distributed import MajorityVote, ballots, majority, majority_vote_hook, pack, unpack
from ravine.errors import UserError
from ravine.optim import SGD

WORKERS, STEPS, LR, MOMENTUM = 3, 4, 0.1, 0.5


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(1, 5))
def test_bits_come_back_and_a_byte_holds_eight(bits: list[bool], shares: int) -> None:
    packed = pack(torch.tensor(bits), shares)
    assert packed.dtype == torch.uint8
    assert packed.shape == (shares, math.ceil(len(bits) / 8 / shares))
    back = unpack(packed).flatten().tolist()
    assert back[: len(bits)] == bits
    assert not any(back[len(bits) :])


def test_the_lowest_bit_is_the_first() -> None:
    assert pack(torch.tensor([True, False, True] + 6 * [False] + [True]), 1).tolist() == [[5, 2]]


def test_zero_votes_by_turns_and_nan_against() -> None:
    values = torch.tensor([-2.0, 0.0, 3.0, math.nan])
    assert ballots(values, 0).tolist() == [False, True, True, False]
    assert ballots(values, 1).tolist() == [False, False, True, False]


def test_most_votes_decide_and_a_tie_goes_round() -> None:
    odd = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.bool)
    assert majority(odd, 5).tolist() == [True, True, False]
    even = torch.tensor([[1, 1, 0], [0, 1, 0]], dtype=torch.bool)
    assert majority(even, 0).tolist() == [True, True, False]
    assert majority(even, 1).tolist() == [False, True, False]


def test_a_tie_of_pure_noise_does_not_drift() -> None:
    noise = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    up = majority(ballots(noise, 0), 0).double().mean()
    assert abs(float(up) - 0.5) < 4 * 0.5 / math.sqrt(100_000)


def test_a_momentum_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match="momentum is 1"):
        MajorityVote(momentum=1.0)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1)).double()


def rows(step: int, rank: int) -> Tensor:
    return torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(100 * step + rank))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))


def written() -> int:
    """Bytes that this process has written, to sockets too."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


def work(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=WORKERS)
    state = MajorityVote(MOMENTUM)
    # Small buckets: there are several, and others after the first step.
    model = nn.parallel.DistributedDataParallel(net(), bucket_cap_mb=1e-4)
    model.register_comm_hook(state, majority_vote_hook)
    optimizer = SGD(model.parameters(), lr=LR)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model, rows(step, rank)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    done = {"parameters": [param.detach() for param in model.parameters()], "steps": state.steps}

    large = nn.parallel.DistributedDataParallel(nn.Linear(999, 1000, bias=False), bucket_cap_mb=100)
    state = MajorityVote(0.0)
    large.register_comm_hook(state, majority_vote_hook)
    dist.barrier()
    before = written()
    large(torch.ones(1, 999)).sum().backward()
    dist.barrier()
    torch.save({**done, "sent": state.sent, "written": written() - before}, f"{directory}/{rank}.pt")
    dist.destroy_process_group()


def expected() -> list[Tensor]:
    """The same steps in one process, by the equation."""
    model = net()
    velocities = [[torch.zeros_like(param) for param in model.parameters()] for _ in range(WORKERS)]
    for step in range(STEPS):
        for rank, own in enumerate(velocities):
            gradients = torch.autograd.grad(loss(model, rows(step, rank)), list(model.parameters()))
            for m, g in zip(own, gradients, strict=True):
                m.mul_(MOMENTUM).add_((1 - MOMENTUM) * g)
        with torch.no_grad():
            for k, param in enumerate(model.parameters()):
                param.sub_(torch.stack([own[k].sign() for own in velocities]).sum(0).sign(), alpha=LR)
    return [param.detach() for param in model.parameters()]


@pytest.mark.slow  # three processes import torch
# What a process really sent is known to the operating system, and only Linux tells it to anybody.
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes are counted by Linux")
def test_three_processes_take_the_steps_of_the_equation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")
    spawn(work, (str(tmp_path),), nprocs=WORKERS)  # type: ignore[no-untyped-call]
    done = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORKERS)]
    for found in done:
        assert found["steps"] == STEPS
        torch.testing.assert_close(found["parameters"], expected(), rtol=0, atol=1e-12)
        # 999,000 bits in three shares of 41,625 bytes; two go to others as votes, and one to two others as outcome.
        assert found["sent"] == 4 * 41_625
        assert found["sent"] <= found["written"] < 1.02 * found["sent"] + 2_000
