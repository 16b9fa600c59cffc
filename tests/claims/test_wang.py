"""Linear systems, SVAG's weights and the slow motion against closed forms; the claims at a size of seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ravine.claims import reproduce
from ravine.claims.nets import Field
from ravine.claims.rows import cross_entropy
from ravine.claims.wang import batch_size, language_model, manifold, quadratic, svag
from ravine.claims.wang.batch_size import Batches
from ravine.claims.wang.language_model import Tuning
from ravine.claims.wang.shared import svag_weights
from ravine.claims.wang.svag import Svag
from ravine.errors import UserError
from ravine.problems.minilm import MiniLM
from ravine.problems.quotes import Quotes


def test_the_system_is_that_of_the_equations() -> None:
    """m' = b m + (1 - b)(c x + z), x' = x - eta m'."""
    eta, b, c = 0.3, 0.8, 2.0
    a, n = quadratic.system(eta, b, c)
    np.testing.assert_allclose(a, [[1 - eta * (1 - b) * c, -eta * b], [(1 - b) * c, b]], rtol=1e-12)
    np.testing.assert_allclose(n, [-eta * (1 - b), 1 - b], rtol=1e-12)


def test_variances_of_the_papers_formula() -> None:
    """SGD: eta s^2 / (lambda (2 - eta lambda)); the ratios of the two methods are known."""
    assert quadratic.variance(0.5, 0.0, 2.0, 3.0) == pytest.approx(0.5 * 3 / (2 * (2 - 1)))
    ratios = [quadratic.variance(eta, 0.0, 1.0) / quadratic.variance(eta, 0.9, 1.0) for eta in (0.01, 0.1, 1.0, 1.9)]
    assert ratios == pytest.approx([1.005, 1.05, 1.95, 19.0], rel=2e-3)


def test_moments_end_at_the_stationary_variance() -> None:
    for momentum in (0.0, 0.9):
        mean, variance = quadratic.moments(0.1, momentum, 1.0, 2_000)[-1]
        assert mean == pytest.approx(0, abs=1e-12)
        assert variance == pytest.approx(quadratic.variance(0.1, momentum, 1.0))


def test_the_gap_vanishes_only_below_alpha_one() -> None:
    assert quadratic.exponent(0.5) > 0.25
    assert abs(quadratic.exponent(1.0)) < 0.05


def test_svag_keeps_the_mean_and_multiplies_the_variance() -> None:
    assert svag_weights(1.0) == (1.0, 0.0)
    for ell in (2.0, 8.0):
        first, second = svag_weights(ell)
        assert first + second == pytest.approx(1)
        assert first**2 + second**2 == pytest.approx(ell)
    outputs, targets = torch.randn(3, 10, 4), torch.randint(4, (3, 10))
    torch.testing.assert_close(svag.svag_losses(1, outputs, targets), cross_entropy(outputs[:, :5], targets[:, :5]))
    torch.testing.assert_close(
        svag.svag_losses(5, outputs, targets),
        2 * cross_entropy(outputs[:, :5], targets[:, :5]) - cross_entropy(outputs[:, 5:], targets[:, 5:]),
    )


def test_a_step_multiplies_the_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    """u^2 - v^2 becomes (1 - eta^2 (u v - 1 - z)^2) times itself under SGD, whatever z."""
    eta = 0.3
    monkeypatch.setattr(manifold, "HORIZON", eta**2)  # one step
    z = torch.randn(1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = float(manifold.slow("SGD", eta, [4]))
    assert found == pytest.approx(float(1 - (eta * z) ** 2), rel=1e-9)


@pytest.mark.parametrize("name", ["wang-quadratic", "wang-manifold", "wang-batch-size", "wang-svag"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic, "ETAS", quadratic.ETAS[:4])
    monkeypatch.setattr(manifold, "REPLICATES", {"quick": 3})
    monkeypatch.setattr(manifold, "ETAS", (0.1, 0.05))
    fields = Field("digits", 16, 4, 2, 1), Field("digits", 64, 3, 2, 1), Field("digits", None, 2, 2, 1)
    monkeypatch.setattr(batch_size, "BATCHES", {"quick": Batches(*fields)})
    monkeypatch.setattr(svag, "SVAG", {"quick": Svag(2, 2, (1, 4))})
    (result,) = reproduce([name], out=tmp_path)
    assert result["findings"] and result["figures"] and result["tables"]
    drawn = all(finding["interval"] is not None for finding in result["findings"])
    assert drawn == (name != "wang-quadratic")
    if name == "wang-quadratic":
        assert result["outcome"] == "reproduced"


def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny encoder, and sentences whose label is a word of theirs, about 40 films."""
    known = {piece: k for k, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "a", "film"])}
    sentences = [f"a {'good' if k % 2 else 'bad'} film" for k in range(400)]
    made = Quotes(sentences, torch.arange(400) % 2, [f"film {k // 10}" for k in range(400)])
    monkeypatch.setattr(language_model, "quotes", lambda: made)
    monkeypatch.setattr(language_model, "vocabulary", lambda: known)
    monkeypatch.setattr(language_model, "pretrained", lambda: MiniLM(len(known), 16, 2, 1, 32, language_model.LENGTH))


def test_films_judge_or_train(monkeypatch: pytest.MonkeyPatch) -> None:
    small_world(monkeypatch)
    films = language_model.Films()
    assert films._judging.isdisjoint(films._training)
    x, y = films.training(20, 3)
    assert x.shape == (40, language_model.LENGTH)
    assert int(y.sum()) == 20
    assert torch.equal((x == 4).any(1).long(), y)  # 4 is "good"
    assert torch.equal(films.judging(10)[0], films.judging(10)[0])


def test_fine_tuning_learns_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_world(monkeypatch)
    tuning = Tuning(30, 30, 2, 1, 20)
    films = language_model.Films()
    assert language_model.fine_tuned(films, "Adam", 0.01, 0, tuning, "cpu") < 0.1
    assert language_model.fine_tuned(films, "SGD", 1e6, 0, tuning, "cpu") == 1.0
    monkeypatch.setattr(language_model, "TUNINGS", {"evening": (tuning,)})
    (first,) = reproduce(["wang-language-model"], "evening", out=tmp_path)
    assert first["findings"][0]["interval"] is not None
    assert [row[1] for row in first["tables"][0]["rows"]] == ["SGD", "SGDM", "Adam"]
    monkeypatch.setattr(language_model, "fine_tuned", None)  # never called again
    (second,) = reproduce(["wang-language-model"], "evening", out=tmp_path)
    assert second == first
    with pytest.raises(UserError, match="has no budget 'quick'"):
        reproduce(["wang-language-model"], out=tmp_path)
