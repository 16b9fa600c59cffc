from pathlib import Path
from typing import Any

import pytest
import torch

from ravine.claims import reproduce
from ravine.claims.sutskever import theorem


def test_the_theorem_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With classical momentum in the place of Nesterov's, the identity is contradicted."""
    right = theorem._trajectory

    def wrong(rule: str, *words: Any) -> torch.Tensor:
        return right("sutskever-momentum", *words)

    monkeypatch.setattr(theorem, "_trajectory", wrong)
    (result,) = reproduce(["sutskever-theorem"], out=tmp_path)
    assert result["outcome"] == "contradicted"
