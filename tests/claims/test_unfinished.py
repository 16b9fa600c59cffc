"""A claim that fails, or lacks its data, does not hinder the others."""

import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from ravine import claims, cli
from ravine.claims import Claim, Evidence, Unfinished, criteria, reproduce
from ravine.errors import UserError, WorkError


def claim(name: str, investigate: Callable[[object], Evidence]) -> Claim:
    return Claim(name, "It is so.", "nobody", dict.fromkeys(("quick", "evening", "paper"), "now"), investigate)


def fine(_: object) -> Evidence:
    return Evidence([criteria.exact("0 is 0", 0.0, 0.0, "deviation")])


def lacks(_: object) -> Evidence:
    raise UserError("no data here; fetch them with `ravine data fetch mnist`")


def breaks(_: object) -> Evidence:
    raise RuntimeError("shapes\n  do not fit")


def divides(_: object) -> Evidence:
    return Evidence([criteria.exact("no run is left", 1.0 / len([]), 0.0, "runs")])


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        name: claim(name, work)
        for name, work in (("data", lacks), ("torch", breaks), ("zero", divides), ("good", fine))
    }
    monkeypatch.setattr(claims, "CLAIMS", MappingProxyType(found))


def test_the_others_are_investigated_and_the_index_says_which_are_not(tmp_path: Path) -> None:
    with pytest.raises(Unfinished) as stopped:
        reproduce(out=tmp_path)
    assert str(stopped.value) == (
        "3 of 4 claims could not be investigated: "
        "data (no data here; fetch them with `ravine data fetch mnist`); torch (shapes do not fit); "
        "zero (float division by zero)"
    )
    assert [result["claim"] for result in stopped.value.results] == ["good"]
    index = (tmp_path / "quick" / "index.html").read_text()
    assert "<strong>torch</strong> could not be investigated: shapes do not fit." in index
    assert 'href="good/index.html"' in index


def test_the_command_prints_the_others_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["reproduce", "all", "--json", "--out", str(tmp_path)])
    assert stopped.value.code == 1
    printed, told = capsys.readouterr()
    assert [result["claim"] for result in json.loads(printed)] == ["good"]
    assert "3 of 4 claims could not be investigated: data (no data here" in told


def test_one_claim_alone_says_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data here"):
        reproduce(["data"], out=tmp_path)
    assert issubclass(Unfinished, WorkError)
