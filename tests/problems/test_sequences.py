"""The sequence tasks: what a net that learns its biases alone gets wrong, the encodings, the initialization."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ravine.errors import UserError
from ravine.problems import PROBLEMS, Problem, check, prepare, sequences

ROWS = 20_000
Encoding = sequences.Encoding


def judged(problem: Problem, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Of the net at its start, its output weights 0: it predicts the mean of the targets whatever it sees."""
    torch.manual_seed(0)
    net = problem.build()
    for parameter in net.get_submodule("output").parameters():
        if parameter.ndim == 2:
            nn.init.zeros_(parameter)
    with torch.no_grad():
        return {name: float(value) for name, value in problem.evaluate(net, batch).items()}


@pytest.mark.parametrize(
    ("task", "encoding", "wrong", "variance"),
    [
        (sequences.addition, "thesis", 0.8464, 1 / 24),
        (sequences.addition, "release", 0.9216, 1 / 6),
        (sequences.multiplication, "thesis", 0.8888, 7 / 144),
        (sequences.multiplication, "release", 0.8888, 7 / 144),
    ],
)
def test_the_level_of_the_mean(task: Callable[..., Problem], encoding: Encoding, wrong: float, variance: float) -> None:
    """Exact values for a constant prediction at tolerance .04; allowed are 4 standard errors."""
    problem = task(30, encoding, rows=ROWS)
    found = judged(problem, problem.train)
    assert found["wrong"] == pytest.approx(wrong, abs=4 * (wrong * (1 - wrong) / ROWS) ** 0.5 + 0.003)
    assert found["loss"] == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize(
    ("task", "encoding", "steps", "wrong"),
    [
        (sequences.memorize_5, "thesis", 210, 5.0),
        (sequences.memorize_5, "release", 200, 2.5),
        (sequences.memorize_20, "thesis", 100, 10.0),
        (sequences.memorize_20, "release", 80, 8.0),
    ],
)
def test_only_the_release_gives_the_published_level_of_biases(
    task: Callable[..., Problem], encoding: Encoding, steps: int, wrong: float
) -> None:
    problem = task(encoding=encoding, rows=2000) if task is sequences.memorize_20 else task(encoding=encoding)
    assert problem.train[0].shape[1] == steps
    found = judged(problem, problem.train)
    assert found["wrong symbols"] == pytest.approx(wrong, abs=0.12)  # 4 standard errors of 2,000 sequences
    assert found["wrong in recall"] == found["wrong symbols"]


def test_addition_as_in_the_thesis() -> None:
    inputs, targets = sequences.addition(40, rows=3000).train
    steps = targets[:, 1].long() + 1
    assert (int(steps.min()), int(steps.max())) == (40, 44)
    for row in range(200):
        first, second = inputs[row, :, 1].nonzero().flatten().tolist()
        assert 0 <= first < steps[row] // 10 <= second < steps[row] // 2
        assert inputs[row, first, 1] == inputs[row, second, 1] == 1
        assert targets[row, 0] == (inputs[row, first, 0] + inputs[row, second, 0]) * 0.5
        assert not inputs[row, steps[row] :].any()


def test_multiplication_as_released() -> None:
    inputs, targets = sequences.multiplication(100, "release", rows=3000).train
    last = targets[:, 1].long()
    assert (int(last.min()), int(last.max())) == (100, 109)
    for row in range(200):
        marks = inputs[row, :, 1]
        first, second = (marks == 1).nonzero().flatten().tolist()
        assert 1 <= first < 10 <= second < 50
        assert (marks == -1).nonzero().flatten().tolist() == [0, int(last[row]) - 3]
        a, b = inputs[row, first, 0] + 0.5, inputs[row, second, 0] + 0.5
        assert targets[row, 0].item() == pytest.approx((a * b).item(), abs=1e-6)


@pytest.mark.parametrize("encoding", ["thesis", "release"])
def test_memorization_shows_waits_cues_and_asks(encoding: Encoding) -> None:
    inputs, targets = sequences.memorize_20(30, encoding, rows=50).train
    kinds = 7 if encoding == "thesis" else 5
    blank, trigger = (5, 6) if encoding == "thesis" else (4, 3)
    assert inputs.shape[1] == (50 if encoding == "thesis" else 30)
    assert torch.equal(inputs[:, :10].long(), targets[:, -10:])
    assert bool((inputs[:, -11] == trigger).all())
    assert bool((inputs[:, 10:-11] == blank).all())
    assert bool((inputs[:, -10:] == blank).all())
    assert bool((targets[:, :-10] == blank).all())
    assert int(inputs.max()) == kinds - 1


def test_five_bits_are_all_thirty_two_sequences() -> None:
    problem = sequences.memorize_5(20)
    assert len(set(map(tuple, problem.train[0][:, :5].tolist()))) == 32
    assert prepare(problem).validation.rows == 32


def test_a_perfect_tagger_has_no_wrong_symbol_and_a_shifted_one_counts_them() -> None:
    targets = torch.tensor([[2, 2, 0, 1], [2, 2, 1, 1]])
    perfect = nn.functional.one_hot(targets, 3).transpose(1, 2).float()
    assert sequences.wrong_symbols(perfect, targets) == 0
    assert sequences.wrong_symbols(perfect.roll(1, dims=2), targets) == 2.5  # three and two
    assert (
        sequences.wrong_numbers(torch.tensor([[9.0, 0.13], [0.5, 9.0]]), torch.tensor([[0.1, 1.0], [0.45, 0.0]])) == 0.5
    )


@pytest.mark.parametrize(("task", "scale"), [(sequences.addition, 0.001), (sequences.memorize_20, 0.1)])
def test_nets_start_as_echo_state_networks(task: Callable[..., Problem], scale: float) -> None:
    problem = task(30, rows=500)
    torch.manual_seed(0)
    values = dict(problem.build().named_parameters())
    recurrent = values["hidden.weight_hh_l0"].detach().double()
    assert recurrent.shape == (100, 100)
    assert set(recurrent.count_nonzero(1).tolist()) == {15}
    assert torch.linalg.eigvals(recurrent).abs().max().item() == pytest.approx(1.1, abs=1e-5)
    assert values["hidden.weight_ih_l0"].std().item() == pytest.approx(scale, rel=0.2)
    assert values["output.weight"].std().item() == pytest.approx(0.1, rel=0.2)
    target = problem.train[1]
    mean = (
        nn.functional.one_hot(target, 6).double().mean((0, 1))
        if target.ndim == 2 and target.shape[1] > 2
        else target[:, 0].mean()
    )
    torch.testing.assert_close(values["output.bias"].detach().double(), mean.double().view(-1))


@pytest.mark.parametrize("name", ["addition", "multiplication", "memorize-5", "memorize-20"])
def test_the_built_in_ones_are_ready_to_train(name: str) -> None:
    problem = PROBLEMS[name]()
    assert check(problem, prepare(problem)) > 0
    assert (problem.steps, problem.batch_size) == (50_000, 100)


def test_wrong_words_are_explained() -> None:
    with pytest.raises(UserError, match="encoding= must be 'thesis' or 'release', not 'paper'"):
        sequences.addition(80, "paper")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="length= must be a whole number of at least 10, not 3"):
        sequences.multiplication(3)
    with pytest.raises(UserError, match="at least 22"):
        sequences.memorize_20(20, "release")
