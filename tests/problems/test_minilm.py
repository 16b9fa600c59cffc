"""The encoder and its tokens: by hand without the weights, and against known numbers where they are fetched."""

from pathlib import Path

import pytest
import torch

from cases_data import require_data
from ravine.problems.minilm import MiniLM, pieces, pretrained, tokens, vocabulary, words

KNOWN = {piece: k for k, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a", "!"])}


def test_words_are_small_without_accents_and_signs_stand_alone() -> None:
    assert words("Na\u00efve, isn't_it? 3D") == ["naive", ",", "isn", "'", "t", "_", "it", "?", "3d"]


def test_pieces_are_the_longest_that_are_known() -> None:
    assert pieces("unaffable", KNOWN) == [4, 5, 6]
    assert pieces("unable", KNOWN) == [4, 6]  # not "##a" and then nothing
    assert pieces("unkind", KNOWN) == [1]
    assert pieces("un" * 51, KNOWN) == [1]


def test_rows_of_tokens_begin_end_and_are_cut() -> None:
    found = tokens(["Unaffable!", "", "un un un un un"], KNOWN, 6)
    assert found.tolist() == [[2, 4, 5, 6, 8, 3], [2, 3, 0, 0, 0, 0], [2, 4, 4, 4, 4, 3]]


def test_what_is_behind_the_end_does_not_count() -> None:
    torch.manual_seed(0)
    model = MiniLM(20, 8, 2, 2, 16, 12)
    rows = torch.randint(1, 20, (3, 5))
    longer = torch.nn.functional.pad(rows, (0, 7))
    torch.testing.assert_close(model(rows), model(longer))
    assert not torch.allclose(model(rows), model(rows.flip(1)))  # places count


def test_a_vocabulary_is_a_piece_a_line(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text("[PAD]\na\n##b\n")
    assert vocabulary(file) == {"[PAD]": 0, "a": 1, "##b": 2}


def test_the_fetched_weights_know_what_a_kitten_is() -> None:
    """Tokens and cosines as those of the transformers library on the same weights, to the digits given."""
    require_data("minilm")
    model, known = pretrained().eval(), vocabulary()
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_564_992
    rows = tokens(["cat", "kitten", "stocks", "The cat's na\u00efve embedding, 12!"], known, 16)
    assert rows[3].tolist() == [101, 1996, 4937, 1005, 1055, 15743, 7861, 8270, 4667, 1010, 2260, 999, 102, 0, 0, 0]
    with torch.no_grad():
        units = torch.nn.functional.normalize(model(rows))
    assert (units @ units[0])[1:3].tolist() == pytest.approx([0.7882, 0.2028], abs=1e-4)
