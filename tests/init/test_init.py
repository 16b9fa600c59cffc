"""The initializers: counts, radii and distributions that their papers state, and whose draws they are."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ravine
from ravine import init
from ravine.errors import UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(units: type[nn.Module] = nn.Sigmoid, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, 30), units(), nn.Linear(30, 6), nn.Linear(6, 50), units(), nn.Linear(50, 8)).to(
        dtype
    )


def links(weight: Tensor) -> list[int]:
    return sorted(set(weight.flatten(1).count_nonzero(dim=1).tolist()))


def distinct(values: Tensor) -> list[float]:
    return sorted(set(values.flatten().tolist()))


def radius(matrix: Tensor) -> float:
    return float(torch.linalg.eigvals(matrix).abs().max())


def z(values: Tensor, mean: float, variance: float) -> float:
    """How many standard errors the mean of `values` is from `mean`."""
    return (values.mean().item() - mean) / math.sqrt(variance / values.numel())


def looks_normal(values: Tensor, scale: float) -> bool:
    """Mean, variance (that of x^2 is 2) and share within one deviation, each within 4 standard errors."""
    x = values.double() / scale
    inside = (x.abs() < 1).double()
    share = math.erf(1 / math.sqrt(2))
    return max(abs(z(x, 0, 1)), abs(z(x**2, 1, 2)), abs(z(inside, share, share * (1 - share)))) < 4


def looks_uniform(values: Tensor, bound: float) -> bool:
    x = values / bound
    return bool(x.abs().max() <= 1) and abs(z(x, 0, 1 / 3)) < 4 and abs(z(x**2, 1 / 3, 4 / 45)) < 4


def test_every_unit_has_the_stated_links_and_all_of_them_where_there_are_fewer() -> None:
    model = ravine.init.sparse_(net(), generator=generator())
    assert [links(layer.weight) for layer in model if isinstance(layer, nn.Linear)] == [[15], [15], [6], [15]]
    assert all(not layer.bias.any() for layer in model if isinstance(layer, nn.Linear))
    assert links(init.sparse_(nn.Linear(10, 20), 3).weight) == [3]


def test_sparse_weights_are_normal_and_sources_are_uniform() -> None:
    layer = init.sparse_(nn.Linear(50, 4000), 10, scale=3.0, generator=generator())
    assert looks_normal(layer.weight[layer.weight != 0], 3.0)
    chosen = (layer.weight != 0).double().mean(0)  # each source has probability 10 / 50 in 4,000 draws
    assert ((chosen - 0.2).abs() / math.sqrt(0.2 * 0.8 / 4000)).max() < 4


def test_tanh_nets_begin_like_logistic_ones() -> None:
    """Factors 1/2, then 1/4, 1/2 into a linear layer and 1/2 out of it; bias 1/2 of tanh units alone."""
    logistic, tanh = init.sparse_(net(), generator=generator()), init.sparse_(net(nn.Tanh), generator=generator())
    factors, biases = [], []
    for one, other in zip(logistic, tanh, strict=True):
        if isinstance(one, nn.Linear) and isinstance(other, nn.Linear):
            shown = one.weight != 0
            factors.append(distinct(other.weight[shown] / one.weight[shown]))
            biases.append(distinct(other.bias))
    assert factors == [[0.5], [0.5], [0.5], [0.5]]
    assert biases == [[0.5], [0.0], [0.5], [0.0]]
    deep = nn.Sequential(*[nn.Linear(20, 20) for _ in range(3)])
    same = init.sparse_(nn.Sequential(*[nn.Linear(20, 20) for _ in range(3)]), generator=generator())
    init.sparse_(deep, units="tanh", generator=generator())
    pairs = [(a, b) for a, b in zip(deep, same, strict=True) if isinstance(a, nn.Linear) and isinstance(b, nn.Linear)]
    ratios = [(a.weight.norm() / b.weight.norm()).item() for a, b in pairs]
    assert ratios == pytest.approx([0.5, 0.25, 0.5])
    assert [distinct(layer.bias) for layer, _ in pairs] == [[0.5], [0.5], [0.0]]


def test_one_tanh_module_in_several_places_is_seen_in_each() -> None:
    tanh = nn.Tanh()
    model = init.sparse_(nn.Sequential(nn.Linear(9, 9), tanh, nn.Linear(9, 9), nn.Dropout(0.1), tanh, nn.Linear(9, 2)))
    biases = [distinct(layer.bias) for layer in model if isinstance(layer, nn.Linear)]
    assert biases == [[0.5], [0.5], [0.0]]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv1d(4, 7, 3), [12]),
        (nn.Conv2d(8, 6, 3), [15]),
        (nn.Conv2d(8, 6, 3, groups=2), [15]),
        (nn.Conv2d(8, 8, 3, groups=8), [9]),
        (nn.Conv3d(2, 5, 3), [15]),
    ],
    ids=str,
)
def test_a_channel_of_a_convolution_is_a_unit(layer: nn.Module, expected: list[int]) -> None:
    init.sparse_(layer)
    assert isinstance(layer.weight, Tensor)
    assert links(layer.weight) == expected


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_each_gate_of_a_recurrent_unit_has_its_links(kind: Callable[..., nn.RNNBase]) -> None:
    layer = init.sparse_(kind(20, 30, num_layers=2, bidirectional=True))
    weights = {name: links(value) for name, value in layer.named_parameters() if name.startswith("weight")}
    assert len(weights) == 8
    assert set(map(tuple, weights.values())) == {(15,)}
    assert all(not value.any() for name, value in layer.named_parameters() if name.startswith("bias"))


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.LSTM, 4), (nn.GRU, 3)])
def test_the_spectral_radius_is_exact(kind: Callable[..., nn.RNNBase], gates: int) -> None:
    layer = kind(3, 100, dtype=torch.float64, bidirectional=True)
    init.echo_state_(layer, input_scale=0.1, spectral_radius=1.1, generator=generator())
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        blocks = getattr(layer, name).detach().chunk(gates)
        assert [radius(block) for block in blocks] == pytest.approx([1.1] * gates, abs=1e-10)
        assert all(links(block) == [15] for block in blocks)


def test_a_sparse_matrix_of_100_units_has_the_radius_of_about_four_before_it_is_rescaled() -> None:
    """15 links of N(0, 1): about sqrt(15) by the circular law, measured elsewhere as 4.06 +- .19."""
    radii = [radius(init.sparse_weight_(torch.empty(100, 100).double(), generator=generator(k))) for k in range(20)]
    assert sum(radii) / len(radii) == pytest.approx(4.06, abs=0.15)


def test_echo_state_scales_and_the_bias_at_the_mean_of_the_targets() -> None:
    model = nn.ModuleList([nn.RNN(50, 100), nn.Linear(100, 80)]).double()
    targets = torch.rand(30, 7, 80, dtype=torch.float64, generator=generator(1))
    init.echo_state_(model, input_scale=0.001, targets=targets, generator=generator())
    values = {name: value.detach() for name, value in model.named_parameters()}
    assert looks_normal(values["0.weight_ih_l0"], 0.001)
    assert looks_normal(values["1.weight"], 0.1)
    torch.testing.assert_close(values["1.bias"], targets.mean((0, 1)))
    assert not values["0.bias_ih_l0"].any()
    assert not values["0.bias_hh_l0"].any()


def test_dense_standards_have_their_distributions() -> None:
    def weight(kind: str, layer: nn.Module | None = None) -> Tensor:
        made = init.dense_(layer or nn.Linear(300, 100, dtype=torch.float64), kind, generator=generator())
        assert isinstance(made.weight, Tensor)
        return made.weight.detach()

    assert looks_normal(weight("lecun"), math.sqrt(1 / 300))
    assert looks_normal(weight("he"), math.sqrt(2 / 300))
    assert looks_uniform(weight("glorot"), math.sqrt(6 / 400))
    conv = weight("glorot", nn.Conv2d(20, 60, 5, groups=2))
    assert looks_uniform(conv, math.sqrt(6 / (10 * 25 + 60 * 25)))
    rows = weight("orthogonal")
    torch.testing.assert_close(rows @ rows.T, torch.eye(100, dtype=torch.float64))
    lstm = init.dense_(nn.LSTM(5, 8, dtype=torch.float64), "orthogonal", gain=2.0)
    for block in dict(lstm.named_parameters())["weight_hh_l0"].detach().chunk(4):
        torch.testing.assert_close(block @ block.T, 4 * torch.eye(8, dtype=torch.float64))


INITIALIZERS: dict[str, Callable[[nn.Module, torch.Generator | None], nn.Module]] = {
    "sparse": lambda model, own: init.sparse_(model, generator=own),
    "echo-state": lambda model, own: init.echo_state_(model, input_scale=1.0, generator=own),
    "dense": lambda model, own: init.dense_(model, "orthogonal", generator=own),
}


def recurrent(dtype: torch.dtype = torch.float64) -> nn.Module:
    return nn.ModuleList([nn.GRU(5, 20), nn.Linear(20, 3)]).to(dtype)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_draws_are_the_given_generators_alone_and_without_one_torchs(name: str) -> None:
    def drawn(seed: int, own: torch.Generator | None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        torch.manual_seed(seed)
        return [value.detach() for value in INITIALIZERS[name](recurrent(dtype), own).parameters()]

    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    assert same(drawn(0, generator(7)), drawn(1, generator(7)))
    assert not same(drawn(0, generator(7)), drawn(0, generator(8)))
    assert same(drawn(3, None), drawn(3, None))
    assert not same(drawn(3, None), drawn(4, None))
    assert same([x.float() for x in drawn(0, generator(7))], drawn(0, generator(7), torch.float32))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = recurrent()
    torch.set_rng_state(before)
    INITIALIZERS[name](model, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shared_parameter_is_set_once_and_others_stay_as_they_are() -> None:
    first, second, norm = nn.Linear(20, 20), nn.Linear(20, 20), nn.LayerNorm(20)
    second.weight = first.weight
    init.sparse_(nn.Sequential(first, norm, second), generator=generator())
    alone = init.sparse_(nn.Linear(20, 20), generator=generator())
    assert torch.equal(first.weight, alone.weight)
    assert distinct(norm.weight) == [1.0]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: init.sparse_(nn.ReLU()), "no linear, convolutional or recurrent layer in this ReLU"),
        (lambda: init.sparse_(nn.Linear(2, 2), 0), "links= must be a whole number of at least 1, not 0"),
        (lambda: init.sparse_(nn.Linear(2, 2), scale=-1.0), "scale= must be a finite number above 0, not -1.0"),
        (lambda: init.sparse_(nn.Linear(2, 2), units="relu"), "units= must be 'logistic', 'tanh' or None"),  # type: ignore[arg-type]
        (lambda: init.sparse_weight_(torch.empty(3)), r"a weight \(units, sources...\), not one of shape \(3,\)"),
        (lambda: init.sparse_(torch.empty(3)), "takes a torch.nn.Module, not Tensor"),  # type: ignore[type-var]
        (lambda: init.echo_state_(nn.Linear(2, 2), input_scale=1.0), "no recurrent layer in this Linear"),
        (
            lambda: init.echo_state_(nn.LSTM(2, 6, proj_size=3), input_scale=1.0),
            r"weight_hh_l0 \(24, 3\) is not square",
        ),
        (
            lambda: init.echo_state_(nn.RNN(2, 6), input_scale=1.0, targets=torch.zeros(3, 1)),
            "sets the bias of the last linear layer, and there is none",
        ),
        (
            lambda: init.echo_state_(recurrent(), input_scale=1.0, targets=torch.zeros(5, 2)),
            r"targets= of shape \(5, 2\) do not fit 3 outputs; give \(rows, ..., 3\)",
        ),
        (lambda: init.dense_(nn.Linear(2, 2), "xavier"), "no kind 'xavier'; choose one of lecun, glorot, he, orth"),
    ],
)
def test_wrong_words_are_explained(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call()


def test_a_matrix_without_an_eigenvalue_is_refused() -> None:
    """One link a unit over two units: for some seeds each feeds only the other, or neither feeds back."""
    outcomes = set()
    for seed in range(20):
        layer = nn.RNN(1, 3)
        try:
            init.echo_state_(layer, input_scale=1.0, links=1, generator=generator(seed))
        except UserError as error:
            assert "give more links" in str(error)
            outcomes.add("refused")
        else:
            outcomes.add("made")
    assert "made" in outcomes
