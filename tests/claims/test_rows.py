"""Rows against torch's own optimizers and modules."""

import pytest
import torch
from torch.nn import functional

from cases_claims import dense_module
from ravine.claims.rows import DenseNets, Descent, accuracy, cross_entropy, gradients, minibatches


def test_dense_nets_are_torchs() -> None:
    nets = DenseNets((5, 4, 3))
    rows = nets.start([0, 1])
    assert rows.shape == (2, nets.parameters)
    assert torch.equal(rows[1], nets.start([1])[0])
    assert float(rows[:, :24].abs().max()) <= 5**-0.5 < float(rows[:, 24:].abs().max()) <= 0.5
    x, y = torch.randn(7, 5), torch.arange(7) % 3
    outputs = nets.outputs(rows, x)
    for k in range(2):
        net = dense_module(nets, rows[k])
        torch.testing.assert_close(outputs[k], net(x))
        torch.testing.assert_close(cross_entropy(outputs, y)[k], functional.cross_entropy(net(x), y))
        assert float(accuracy(outputs, y)[k]) == pytest.approx(float((net(x).argmax(1) == y).float().mean()))
    own = torch.stack([x, x.flip(0)])
    torch.testing.assert_close(nets.outputs(rows, own)[1], outputs[1].flip(0))


def test_rows_descend_as_single_runs_under_torch() -> None:
    """Heavy-ball momentum with another learning rate and momentum in each row."""
    nets = DenseNets((3, 4, 2))
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    rates, momenta = [0.1, 0.05], [0.0, 0.9]
    descent = Descent("momentum", nets.start([3, 4]), lr=torch.tensor(rates), momentum=torch.tensor(momenta))
    singles = [dense_module(nets, row) for row in descent.rows]
    for step in range(5):
        if step == 3:
            descent.step(gradients(lambda rows: cross_entropy(nets.outputs(rows, x), y), descent.rows)[1], lr=0.01)
        else:
            descent.step(gradients(lambda rows: cross_entropy(nets.outputs(rows, x), y), descent.rows)[1])
    for net, rate, momentum in zip(singles, rates, momenta, strict=True):
        torch_sgd = torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum)
        for step in range(5):
            for group in torch_sgd.param_groups:
                group["lr"] = 0.01 if step >= 3 else rate
            torch_sgd.zero_grad()
            functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
            torch_sgd.step()
    for net, row in zip(singles, descent.rows, strict=True):
        torch.testing.assert_close(net(x), nets.outputs(row[None], x)[0])


def test_minibatches_depend_on_their_seed_alone() -> None:
    drawn = minibatches(100, 8, 5, [4, 7])
    assert drawn.shape == (5, 2, 8)
    assert torch.equal(drawn[:, 1], minibatches(100, 8, 5, [7])[:, 0])
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < 100
