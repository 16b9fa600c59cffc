"""Sentences of film reviews that are fresh or rotten. Fetched once: `ravine data fetch quotes`."""

from __future__ import annotations

import bz2
import csv
from dataclasses import dataclass

import torch
from torch import Tensor

from ravine.problems.data import files_of

FILE = "rotten_tomatoes_corpus_full.csv.bz2"
LABELS = {"rotten": 0, "fresh": 1}


@dataclass(frozen=True)
class Quotes:
    """Sentences with their labels (sentences,), 0 for rotten and 1 for fresh, and the film that each is about."""

    sentences: list[str]
    labels: Tensor
    films: list[str]

    def of(self, films: set[str], each: int, generator: torch.Generator) -> tuple[list[str], Tensor]:
        """`each` sentences of either label, drawn from those about these films; in random order."""
        here = torch.tensor([film in films for film in self.films])
        chosen = []
        for label in LABELS.values():
            rows = torch.nonzero(here & (self.labels == label)).flatten()
            assert len(rows) >= each, "there are fewer sentences than asked for"
            chosen.append(rows[torch.randperm(len(rows), generator=generator)[:each]])
        places = torch.cat(chosen)
        places = places[torch.randperm(len(places), generator=generator)]
        return [self.sentences[place] for place in places], self.labels[places]


def quotes() -> Quotes:
    """All 12,808. Raises UserError when they are not fetched."""
    with bz2.open(files_of("quotes") / FILE, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in LABELS]
    labels = torch.tensor([LABELS[row["category"]] for row in rows])
    return Quotes([row["text"] for row in rows], labels, [row["movie_name"] for row in rows])
