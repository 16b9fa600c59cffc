"""Graph attention against its definition, the initializations, and every claim at a size of seconds."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import leaky_relu

from ravine.claims import mustafa, reproduce
from ravine.claims.mustafa import Attention, Deep, Graphs


def graphs(runs: int = 2, nodes: int = 6) -> Graphs:
    return mustafa.communities(range(runs), nodes, 4, 2, degree=2, same=0.5, signal=1.0)


def test_a_layer_is_attention_over_the_neighbours() -> None:
    nets, data = Attention((4, 3)), graphs()
    rows = torch.randn(2, 15)
    found = nets.outputs(rows, data)
    for run in range(2):
        ((weights, attention),) = [(w[run], a[run]) for w, a in nets.unpack(rows)]
        z = data.features[run] @ weights.T
        for u in range(6):
            near = z[data.links[run, u]]
            scores = torch.stack([attention @ leaky_relu(z[u] + one, 0.2) for one in near])
            torch.testing.assert_close(found[run, u], scores.softmax(0) @ near)
    assert torch.equal(nets.pack(nets.unpack(rows)), rows)


def test_graphs_link_each_node_to_itself_and_to_its_class() -> None:
    data = mustafa.communities([0], 40, 4, 4, degree=3, same=1.0, signal=1.0)
    assert torch.equal(data.links[0, :, 0], torch.arange(40))
    assert bool((data.links[0] % 4 == data.classes[0][:, None]).all())
    assert data.repeated(3).features.shape == (3, 40, 4)


def test_rescaling_a_unit_changes_nothing_with_relu() -> None:
    """The invariance from which the law follows: W[i, :] times c, a[i] over c, V[:, i] over c."""
    nets, data = Attention((4, 3, 2)), graphs()
    rows = torch.randn(2, 23, dtype=torch.float64)
    (w, a), (v, b) = (tuple(part.clone() for part in layer) for layer in nets.unpack(rows))
    w[:, 1] *= 2.5
    a[:, 1] /= 2.5
    v[:, :, 1] /= 2.5
    torch.testing.assert_close(nets.outputs(nets.pack([(w, a), (v, b)]), data), nets.outputs(rows, data))


@pytest.mark.parametrize("name", ["balanced Xavier", "balanced orthogonal"])
def test_balanced_initializations(name: str) -> None:
    nets = Attention((4, 6, 6, 3))
    rows = mustafa.start(name, nets, [0, 1])
    assert float(nets.conserved(rows).abs().max()) < 1e-6
    layers = nets.unpack(rows)
    torch.testing.assert_close(layers[0][0].square().sum(2), torch.full((2, 6), 2.0))
    assert not any(bool(attention.any()) for _, attention in layers)


def test_looks_linear_blocks() -> None:
    """Before scaling, the net with ReLU and without attention is a product of orthogonal matrices."""
    (first, _), (middle, _), (last, _) = mustafa.looks_linear((3, 6, 6, 2), torch.Generator().manual_seed(0))
    x = torch.randn(5, 3)
    through = ((x @ first[0].T).relu() @ middle[0].T).relu() @ last[0].T
    torch.testing.assert_close(through, x @ (last[0, :, :3] @ middle[0, :3, :3] @ first[0, :3]).T)


@pytest.mark.parametrize("name", ["mustafa-law", "mustafa-depth"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mustafa, "LAW_SEEDS", {"quick": 4})
    monkeypatch.setattr(mustafa, "LAW_RATES", (0.04, 0.004))
    monkeypatch.setattr(mustafa, "DEEP", {"quick": Deep(3, 4, 24, 6, 2, 1)})
    (result,) = reproduce([name], out=tmp_path)
    assert result["figures"] and result["tables"]
    if name == "mustafa-law":
        assert result["outcome"] == "reproduced", result["findings"]
