"""MiniLM: a small pre-trained encoder of sentences, in plain torch, and the tokens that it reads.

all-MiniLM-L6-v2 (Wang et al. 2020, "MiniLM"; Reimers and Gurevych 2019) is a BERT of 6 layers. Its weights are fetched
once: `ravine data fetch minilm`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ravine.problems.data import files_of

WORD = re.compile(r"[^\W_]+|[^\w\s]|_")  # a run of letters and digits, or one other sign
LONGEST = 100  # letters; longer words are unknown


class MiniLM(nn.Module):
    """tokens (rows, length) int64, 0 behind the end -> the mean of the last layer over the tokens, (rows, width).

    BERT (Devlin et al. 2019) without its dropout, its pooler, and the second of its two kinds of sentences. The
    defaults are the sizes of the fetched weights: 22.6 million parameters.
    """

    def __init__(
        self,
        words: int = 30_522,
        width: int = 384,
        heads: int = 12,
        depth: int = 6,
        inner: int = 1_536,
        places: int = 512,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.places = nn.Embedding(places, width)
        self.kind = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            width, heads, inner, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Sentence embeddings."""
        absent = tokens == 0
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]] + self.kind
        x = self.layers(self.norm(x), src_key_padding_mask=absent)
        there = (~absent).to(x.dtype).unsqueeze(2)
        mean: Tensor = (x * there).sum(1) / there.sum(1)
        return mean


def pretrained() -> MiniLM:
    """The fetched weights. Raises UserError when they are not fetched."""
    model = MiniLM()
    model.load_state_dict(_renamed(load_file(files_of("minilm") / "model.safetensors")))
    return model


def _renamed(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored tensors by the names of `MiniLM`; query, key and value are one matrix there."""
    found = {
        "words.weight": stored["embeddings.word_embeddings.weight"],
        "places.weight": stored["embeddings.position_embeddings.weight"],
        "kind": stored["embeddings.token_type_embeddings.weight"][0],
    }
    for end in ("weight", "bias"):
        found[f"norm.{end}"] = stored[f"embeddings.LayerNorm.{end}"]
        for k in range(sum(name.endswith("intermediate.dense.bias") for name in stored)):
            here, there = f"layers.layers.{k}", f"encoder.layer.{k}"
            parts = [stored[f"{there}.attention.self.{part}.{end}"] for part in ("query", "key", "value")]
            found[f"{here}.self_attn.in_proj_{end}"] = torch.cat(parts)
            found[f"{here}.self_attn.out_proj.{end}"] = stored[f"{there}.attention.output.dense.{end}"]
            found[f"{here}.norm1.{end}"] = stored[f"{there}.attention.output.LayerNorm.{end}"]
            found[f"{here}.linear1.{end}"] = stored[f"{there}.intermediate.dense.{end}"]
            found[f"{here}.linear2.{end}"] = stored[f"{there}.output.dense.{end}"]
            found[f"{here}.norm2.{end}"] = stored[f"{there}.output.LayerNorm.{end}"]
    return found


def vocabulary(path: Path | None = None) -> dict[str, int]:
    """Piece of a word -> its number: the lines of vocab.txt. Raises UserError when it is not fetched."""
    path = path or files_of("minilm") / "vocab.txt"
    return {piece: number for number, piece in enumerate(path.read_text(encoding="utf-8").splitlines())}


def tokens(sentences: Iterable[str], known: Mapping[str, int], length: int) -> Tensor:
    """(sentences, length) int64: [CLS], the pieces of the words, [SEP], then 0; what does not fit is cut off.

    Words are in small letters and without accents, and every sign is a word: BERT's uncased rules for Latin script.
    """
    rows = torch.zeros(len(sentences := list(sentences)), length, dtype=torch.int64)
    for row, sentence in zip(rows, sentences, strict=True):
        numbers = [number for word in words(sentence) for number in pieces(word, known)][: length - 2]
        row[: len(numbers) + 2] = torch.tensor([known["[CLS]"], *numbers, known["[SEP]"]])
    return rows


def words(sentence: str) -> list[str]:
    """The words and signs of a sentence, in small letters and without accents."""
    apart = unicodedata.normalize("NFD", sentence.lower())
    return WORD.findall("".join(letter for letter in apart if unicodedata.category(letter) != "Mn"))


def pieces(word: str, known: Mapping[str, int]) -> Sequence[int]:
    """WordPiece (Wu et al. 2016): the longest known beginning, then the longest known `##` piece, and so on."""
    found, start = [], 0
    while start < len(word) <= LONGEST:
        ends = range(len(word), start, -1)
        mark = "##" if start else ""
        end = next((end for end in ends if mark + word[start:end] in known), None)
        if end is None:
            return [known["[UNK]"]]
        found.append(known[mark + word[start:end]])
        start = end
    return found or [known["[UNK]"]]
