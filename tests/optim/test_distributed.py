"""Two real processes are one: under DDP, and with the parameters sharded between them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from cases_optim import assert_same
from ravine.optim import OF_RULE, arithmetic

REPLICATED = ("nesterov", "adam", "sngm", "random-scaling")
SHARDED = [(name, dim) for name in ("nesterov", "adam", "lion", "sngm", "sgdp", "adamp") for dim in (0, 1)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def train(model: nn.Module, name: str, rows: slice) -> list[Tensor]:
    optimizer = OF_RULE[name](model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (model(x[rows]) - x[rows].sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    return [param.detach().clone() for param in model.parameters()]


def step_matrix(name: str, placed: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> list[Tensor]:
    """A matrix after some steps, placed whole or in parts, and a row that is always whole."""
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randn(4, 7, 4, generator=generator, dtype=torch.float64)
    param, row = nn.Parameter(placed(numbers[0, :6])), nn.Parameter(numbers[0, 6])
    optimizer = OF_RULE[name]([param, row], lr=0.05)
    for grad in numbers[1:]:
        param.grad, row.grad = placed(grad[:6]), grad[6]
        optimizer.step()
    return [param.detach(), row.detach()]


def step_shards(name: str, dim: int) -> list[Tensor]:
    """The same with rows or columns on each process."""
    from torch.distributed.device_mesh import init_device_mesh  # not in every build of torch
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    moved, row = step_matrix(name, lambda tensor: distribute_tensor(tensor, mesh, [Shard(dim)]))
    assert isinstance(moved, DTensor)
    return [moved.full_tensor(), row]


def work(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    arithmetic.BLOCK = 4  # shards are larger than a block
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=2)
    half = slice(3 * rank, 3 * rank + 3)
    done = {
        name: train(nn.parallel.DistributedDataParallel(net(), gradient_as_bucket_view=True), name, half)
        for name in REPLICATED
    }
    done |= {f"{name} {dim}": step_shards(name, dim) for name, dim in SHARDED}
    torch.save(done, f"{directory}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow  # two processes import torch
# torch can be built without it (USE_DISTRIBUTED=0)
@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_processes_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")
    spawn(work, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in first:
        assert_same(first[name], second[name])
    for name in REPLICATED:
        for a, b in zip(first[name], train(net(), name, slice(0, 6)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for name, dim in SHARDED:
        torch.testing.assert_close(first[f"{name} {dim}"], step_matrix(name), rtol=1e-10, atol=1e-12)
