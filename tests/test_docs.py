"""The pages are code: python blocks compile, `runs` blocks run, `problem` blocks are problems, commands parse."""

import re
import shlex
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import NoReturn

import pytest

from ravine import advice, claims, cli, problems, study
from ravine.problems import data

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(page, mark, body, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (language, mark, body) in enumerate(FENCE.findall(page.read_text()), 1)
    if language == "python"
]


def commands() -> list[str]:
    """Every `ravine ...` of the pages: lines of shell blocks and spans in the text."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        lines = [
            line
            for language, _, body in FENCE.findall(text)
            if language in {"sh", "bash"}
            for line in body.splitlines()
        ]
        spans = re.findall(r"`(ravine [^`]+)`", FENCE.sub("", text))
        found |= {line.split("#")[0].split(">")[0].strip().removeprefix(".venv/bin/") for line in lines + spans}
    return sorted(line for line in found if line.startswith("ravine "))


class Understood(Exception):
    """The command line came as far as the work."""


def work(*_: object, **__: object) -> NoReturn:
    raise Understood


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for name in ("compare", "plan", "resume", "load"):
        monkeypatch.setattr(study, name, work)
    monkeypatch.setattr(data, "fetch", work)
    monkeypatch.setattr(advice, "advise", work)
    monkeypatch.setattr(claims, "reproduce", work)
    with pytest.raises((Understood, SystemExit)) as stopped:
        cli.main(shlex.split(command)[1:])
    assert not isinstance(stopped.value, SystemExit) or stopped.value.code == 0


def test_the_pages_hold_commands() -> None:
    assert "ravine compare digits" in commands()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> study.Comparison:
    """A real study, as small as can be: what it finds is worth nothing, how it is stored is what the pages describe."""
    out = tmp_path_factory.mktemp("studies") / "tiny"
    return study.compare(
        "ravine", ("sgd", "momentum"), steps=5, trials=4, tuning_seeds=1, seeds=2, executor="single", workers=1, out=out
    )


@pytest.mark.parametrize(("page", "mark", "body"), BLOCKS)
def test_every_python_block_holds(
    page: Path, mark: str, body: str, tiny: study.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile(body, f"{page.name}: python block", "exec")
    words = signature(study.compare)

    def compare(*args: object, **given: object) -> study.Comparison:
        words.bind(*args, **given)
        return tiny

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "compare", compare)
    if mark == "runs":
        exec(code, {"__name__": "__main__"})
    elif mark == "problem":
        file = tmp_path / "my_problem.py"
        file.write_text(body)
        problem = problems.load(file)
        problems.check(problem, problems.prepare(problem))
    else:
        assert mark == "", f"a python block is marked `runs`, `problem` or nothing, not {mark!r}"


def names_in(section: str) -> set[str]:
    """The names in the first column of the tables of a section of docs/compare.md."""
    page = (ROOT / "docs/compare.md").read_text().split(section, 1)[1]
    table = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)[0]
    return set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE))))


def test_everything_that_a_study_stores_is_documented(tiny: study.Comparison) -> None:
    stored = {f"{one.name}/" if one.is_dir() else one.name for one in tiny.directory.iterdir()}
    assert stored - {"runs/"} <= names_in("## The study directory")
    assert set(tiny.runs.columns) <= names_in("The columns:")
    assert set(tiny.verdict) <= names_in("## verdict.json")
    assert set(tiny.verdict["contrasts"][0]) == names_in("A contrast:")


def test_every_option_of_compare_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    documented = set(re.findall(r"^\| `(--[a-z-]+)", (ROOT / "docs/compare.md").read_text(), re.MULTILINE))
    assert options == documented


def test_every_field_of_a_problem_is_documented() -> None:
    page = (ROOT / "docs/your-problem.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert documented == {field.name for field in fields(problems.Problem)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", FENCE.sub("", page.read_text()))
    assert [target for target in targets if not (page.parent / target).exists()] == []
