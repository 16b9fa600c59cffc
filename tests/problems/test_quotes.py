"""Sentences about films: how they are drawn, and what is in the fetched file."""

import torch

from cases_data import require_data
from ravine.problems.quotes import Quotes, quotes


def test_draws_are_balanced_and_keep_to_their_films() -> None:
    films = [f"film {k % 5}" for k in range(100)]
    made = Quotes([f"{k}" for k in range(100)], torch.arange(100) % 2, films)
    sentences, labels = made.of({"film 1", "film 2"}, 10, torch.Generator().manual_seed(3))
    assert len(set(sentences)) == 20
    assert {films[int(sentence)] for sentence in sentences} == {"film 1", "film 2"}
    assert labels.tolist() == [int(sentence) % 2 for sentence in sentences]
    assert int(labels.sum()) == 10
    assert made.of({"film 1", "film 2"}, 10, torch.Generator().manual_seed(3))[0] == sentences


def test_fetched_quotes() -> None:
    require_data("quotes")
    found = quotes()
    assert len(found.sentences) == 12_808
    assert int(found.labels.sum()) == 7_403
    assert len(set(found.films)) == 508
