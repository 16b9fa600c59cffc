import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ravine
from ravine import cli, measure
from ravine.advice import predictor, sentences
from ravine.advice.predictor import PRIOR, feature, fit, probabilities
from ravine.errors import UserError
from ravine.problems import Problem, quadratic


def noisy() -> Problem:
    """The built-in with batches of one row: noise limits the step."""
    return quadratic(batch_size=1)


def ill_conditioned() -> Problem:
    return quadratic([1.0, 0.3, 0.001], noise=0.0, steps=300, start=(1.0, 1.0, 30.0))


def small(**changes: object) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=generator)
    given: dict[str, object] = {
        "name": "small",
        "model": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Tanh(), nn.Linear(6, 2)),
        "loss": cross_entropy,
        "train": (x, (x[:, 0] > 0).long()),
        "metrics": {"accuracy": ravine.metrics.accuracy},
        "batch_size": 16,
        "steps": 60,
        **changes,
    }
    return Problem(**given)  # type: ignore[arg-type]


def test_a_noisy_well_conditioned_problem_needs_no_momentum() -> None:
    found = ravine.advise(noisy())
    assert found.regime == "noise-limited"
    assert found.verdict == "equal"
    assert found.recommended.method == "sgd"
    assert found.memory_saved == 10 * 8
    assert found.noise is None or found.noise < 1
    assert any("save 80 bytes" in sentence for sentence in sentences(found))


def test_an_ill_conditioned_problem_without_noise_needs_it() -> None:
    found = ravine.advise(ill_conditioned())
    assert found.regime == "curvature-limited"
    assert found.verdict == "pays"
    assert found.probability > 0.8
    assert found.headroom > 2
    assert found.recommended.momentum >= 0.5
    assert found.points[0].sharpness == pytest.approx(1.0, rel=0.02)
    assert found.points[0].noise_scale is None


def test_the_recommended_settings_train_a_quadratic_as_forecast() -> None:
    found = ravine.advise(ill_conditioned())
    problem = ill_conditioned()
    losses = {}
    for name, setting in (("with", found.with_momentum), ("without", found.without_momentum)):
        model = problem.build()
        nesterov = setting.method == "nesterov"
        optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=setting.momentum, nesterov=nesterov)
        for _ in range(problem.steps):
            optimizer.zero_grad()
            loss = problem.loss_on(model, torch.zeros(1, 3, dtype=torch.float64))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        losses[name] = float(loss.detach())
    assert losses["with"] < losses["without"] / 5


@pytest.mark.parametrize("steps", [40, 400])
def test_momentum_is_told_to_keep_away_from_the_edge_and_to_remember_no_more_than_is_left(steps: int) -> None:
    found = ravine.advise(ill_conditioned(), steps=steps)
    taken, last = found.with_momentum, found.points[-1]
    edge = measure.stability_limit(1.0, taken.momentum, nesterov=taken.method == "nesterov") / last.sharpness
    assert 0 < taken.lr <= 0.25 * edge
    assert 2 <= 1 / (1 - taken.momentum) < steps - last.step + 1


@pytest.mark.parametrize(
    "change", [{}, {"weight_decay": 1e-3}, {"clip": 1.0}, {"schedule": lambda step: 1 / (1 + step)}]
)
def test_a_net_with_every_trimming_gets_advice(change: dict[str, object]) -> None:
    problem = small(**change)
    state = torch.get_rng_state()
    found = ravine.advise(problem)
    again = ravine.advise(problem)
    assert torch.equal(state, torch.get_rng_state())
    assert replace(found, seconds=0.0) == replace(again, seconds=0.0)
    assert found.endpoint == "accuracy"
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert [point.step for point in found.points] == [0, 3, 12]
    json.dumps(found.as_json(), allow_nan=False)


def test_a_problem_whose_loss_is_its_own_gets_advice_from_the_hessian() -> None:
    problem = small()
    assert problem.loss is not None
    loss = problem.loss
    found = ravine.advise(
        replace(problem, loss=None, metrics={}, batch_loss=lambda model, batch: loss(model(batch[0]), batch[1]))
    )
    assert found.endpoint == "loss"
    assert any("Hessian" in caveat for caveat in found.caveats)
    assert (found.verdict == "pays") == any("confirm it" in caveat for caveat in found.caveats)


def test_the_prior_rule_is_that_momentum_pays_where_the_forecast_exceeds_the_margin() -> None:
    assert probabilities(feature(0.05, 0.05), PRIOR)["pays"] == pytest.approx(0.5)
    assert probabilities(feature(0.5, 0.05), PRIOR)["pays"] > 0.85
    assert probabilities(feature(-1.0, 0.05), PRIOR)["pays"] < 0.05
    assert feature(1e9, 0.05) == feature(1e8, 0.05)
    assert feature(0.0, 0.0) == feature(-1.0, 0.0) == feature(0.0, 0.05)  # nothing gained is no gain
    assert feature(1e-9, 0.0) == feature(1e9, 0.05)


def test_an_advice_from_the_start_alone_still_weighs_what_a_metric_can_gain() -> None:
    """No time for a run: momentum pays on 30 full batches of the digits, and the start shows it."""
    found = ravine.advise("digits", steps=30, batch_size=2000, seconds=1e-3)
    assert len(found.points) == 1 and found.rows < 1024
    assert found.verdict == "pays"
    assert any("Only the start" in caveat for caveat in found.caveats)
    assert any("confirm it" in caveat for caveat in found.caveats)


def test_the_learning_rate_that_matches_is_that_of_the_same_effective_one() -> None:
    found = ravine.advise(noisy())
    kept = found.with_momentum.momentum
    assert found.matched_lr / (1 - kept) == pytest.approx(found.without_momentum.effective_lr)
    assert found.as_json()["matched_lr"] == found.matched_lr


def test_a_model_made_in_eval_mode_is_trained_in_train_mode_as_in_a_study() -> None:
    problem = small()
    assert replace(ravine.advise(problem), seconds=0.0) == replace(
        ravine.advise(replace(problem, model=lambda: problem.model().eval())), seconds=0.0
    )


def test_a_fit_moves_from_the_prior_to_the_cells() -> None:
    assert fit([], []) == PRIOR
    x = [-1.0, -0.5, 0.0, 0.5, 0.6, 1.0, 1.5, 2.0] * 5
    later = fit(x, ["pays" if one > 0.55 else "equal" for one in x])
    assert probabilities(0.3, later)["pays"] < 0.5 < probabilities(0.8, later)["pays"]
    assert later.hurts < PRIOR.hurts
    assert fit([*x, 3.0], ["pays" if one > 0.55 else "equal" for one in x] + ["undecided"]) == later


def test_the_committed_coefficients_can_be_read() -> None:
    found = predictor.committed()
    assert found.slope > 0
    assert 0 < found.hurts < 1


def test_the_command_prints_sentences_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["advise", "ravine", "--steps", "60"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("Predicted for momentum against plain SGD on 'ravine' (loss after 60 steps")
    with pytest.raises(SystemExit):
        cli.main(["advise", "ravine", "--steps", "60", "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == "pays"


def test_wrong_words_get_a_sentence() -> None:
    with pytest.raises(UserError, match="no metric 'speed'"):
        ravine.advise(small(), endpoint="speed")
    with pytest.raises(UserError, match="seconds is 0"):
        ravine.advise(small(), seconds=0)
    with pytest.raises(UserError, match="seconds is '60s'"):
        ravine.advise(small(), seconds="60s")  # type: ignore[arg-type]
    for margin in (-1.0, float("nan")):
        with pytest.raises(UserError, match=r"margin is .*: give at least 0"):
            ravine.advise(small(), margin=margin)
    with pytest.raises(UserError, match="no problem 'digitz'"):
        ravine.advise("digitz")
