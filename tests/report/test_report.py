"""The page: self-contained, deterministic, true to the verdict, and whole for every kind of study."""

import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ravine import report
from ravine.errors import UserError
from ravine.report.figures import Material, figures, maps
from ravine.report.page import command

Make = Callable[..., Any]
VOID = {"meta", "br", "rect", "line", "circle", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """What a browser would see: attributes, texts, `data` values, the table of verdicts; fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.specs: dict[str, Any] = {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.attributes += [(tag, key, value) for key, value in given.items()]
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "tr":
            self.rows.append({"values": [], "text": ""})
        if tag == "data":
            self.rows[-1]["values"].append(float(given["value"])) if self.rows else None
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            if data.startswith('{"'):
                self.specs = json.loads(data)
            return
        if self.open[-1:] != ["style"]:
            self.text += data
            if "tr" in self.open:
                self.rows[-1]["text"] += data


def built(made: Any, tmp_path: Path) -> str:
    path = report.write(made.verdict, made.runs, made.study, made.cost, tmp_path / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def usual(make: Make) -> Any:
    return make()


@pytest.fixture(scope="module")
def text(usual: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(usual, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def material(usual: Any) -> Material:
    return Material(usual.verdict, usual.runs, usual.study)


def test_the_file_is_small_and_loads_nothing(text: str, page: Page) -> None:
    assert len(text.encode()) < 2_500_000
    loading = [
        (tag, key, value) for tag, key, value in page.attributes if key in ("src", "href", "srcset", "data", "action")
    ]
    assert loading == []
    assert "@import" not in text.split("<script>")[0] and "url(" not in text.split("<script>")[0]
    policy = next(value for tag, key, value in page.attributes if key == "content" and "default-src" in value)
    assert "default-src 'none'" in policy and "connect-src" not in policy  # the browser refuses what would slip through
    assert "http" not in json.dumps(page.specs)
    assert text.count("window.vegaEmbed=") == 1


def test_equal_studies_give_equal_bytes(make: Make, tmp_path: Path) -> None:
    first, second = (built(make(("sgd", "momentum"), trials=16), tmp_path) for _ in range(2))
    assert first == second


def test_the_strip_says_what_the_verdict_says(usual: Any, page: Page) -> None:
    rows = page.rows[1:]  # the first one is the head
    for row, contrast in zip(rows, usual.verdict["contrasts"], strict=False):
        settings = list(contrast["settings"].values())
        assert row["values"] == [contrast["difference"], *contrast["interval"], *settings]
        assert contrast["method"] in row["text"] and contrast["verdict"] in row["text"]
        assert f"{contrast['difference']:+.3f}" in row["text"].replace("−", "-")
        assert f"{contrast['diverged'][0]} : {contrast['diverged'][1]}" in row["text"]


def test_every_figure_has_a_place_data_and_a_description(usual: Any, page: Page) -> None:
    assert list(page.specs)[:4] == ["differences", "curves", "gaps", "expected"]
    assert len(page.specs) == 4 + len(usual.verdict["methods"])
    assert len(page.ids) == len(set(page.ids))
    for key, spec in page.specs.items():
        assert key in page.ids
        assert len(spec["description"]) > 20
        assert all(spec["datasets"].values())


def test_the_charts_hold_aggregates_and_not_runs(page: Page) -> None:
    rows = {key: sum(map(len, spec["datasets"].values())) for key, spec in page.specs.items()}
    assert rows["curves"] <= 4 * 100 and rows["gaps"] <= 3 * 100 + 2 and rows["expected"] == 4 * 64


def test_the_charts_agree_with_the_schema_of_vega_lite(material: Material) -> None:
    for figure in [*figures(material).values(), *maps(material)]:
        assert figure.chart.to_dict(validate=True)["layer"]


def test_differences_are_centred_on_the_verdict(usual: Any, material: Material) -> None:
    for contrast in usual.verdict["contrasts"]:
        dots = material.seeds.filter(method=contrast["method"], versus=contrast["versus"])
        assert len(dots) == contrast["seeds"]
        assert dots["difference"].mean() == pytest.approx(contrast["difference"], abs=1e-12)


def test_a_search_of_momentum_holds_the_runs_of_sgd_that_it_took_over(material: Material) -> None:
    trials = material.trials
    assert {method: len(table) for method, table in trials.items()} == dict.fromkeys(trials, 64)
    assert len(trials["momentum"].filter(pl.col("momentum") == 0)) == 16


def test_a_setting_that_was_trained_as_the_contained_method_is_found(usual: Any, tmp_path: Path) -> None:
    made = copy.deepcopy(usual)
    sgd = made.verdict["methods"]["sgd"]
    made.verdict["methods"]["momentum"] |= {
        "settings": sgd["settings"],
        "trained_as": "sgd",
        "finalists": [finalist | {"trained_as": "sgd"} for finalist in sgd["finalists"]],
    }
    study = Material(made.verdict, made.runs, made.study)
    seeds = study.seeds.filter(method="momentum", versus="sgd")
    assert len(seeds) == 20 and (seeds["difference"] == 0).all()
    assert "the same as sgd" in Page(built(made, tmp_path)).text


KINDS: dict[str, dict[str, Any]] = {
    "one method": {"methods": ("sgd", "momentum")},
    "loss": {"loss": True},
    "all runs of a method diverged": {"diverging": "momentum"},
    "all runs of a method diverged, loss": {"diverging": "adam", "loss": True},
    "all runs of the baseline diverged": {"diverging": "sgd"},
    "no momentum axis at all": {"methods": ("sgd", "adagrad")},
    "few trials": {"trials": 8},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_study_has_a_whole_report(kind: str, make: Make, tmp_path: Path) -> None:
    made = make(**({"trials": 16} | KINDS[kind]))
    page = Page(built(made, tmp_path))
    assert set(page.specs) >= {"differences", "curves", "gaps", "expected", "map-0", "map-1"}
    assert "nan" not in page.text.lower().split() and "None" not in page.text


def test_a_loss_is_shown_on_a_logarithmic_axis_and_as_a_factor(make: Make, tmp_path: Path) -> None:
    made = make(("sgd", "nesterov"), loss=True, trials=16)
    page = Page(built(made, tmp_path))
    assert page.specs["curves"]["layer"][1]["encoding"]["y"]["scale"]["type"] == "log"
    assert "loss × 0." in page.text


def test_slices_and_maps(make: Make) -> None:
    made = make(("sgd", "adagrad", "momentum"), trials=16)
    drawn = maps(Material(made.verdict, made.runs, made.study))
    axes = [figure.spec["layer"][-1]["encoding"]["x"]["field"] for figure in drawn]
    assert axes == ["shown", "shown", "gap"]


def test_times_to_target_and_secondary_endpoints_are_tables(usual: Any, page: Page) -> None:
    times = [row["text"] for row in page.rows if "×" in row["text"] and " of 20" in row["text"]]
    told = [one for one in usual.verdict["time_to_target"] if one["speedup"] is not None]
    assert len(times) == len(told) > 5
    assert f"{told[0]['reached'][0]} : {told[0]['reached'][1]} of 20" in times[0]
    assert f"× {told[0]['speedup']:.4g}" in times[0]
    assert "Difference in log-ratio of loss" in page.text


def test_a_full_study_tells_the_chance_to_win(make: Make, tmp_path: Path) -> None:
    page = Page(built(make(("sgd", "momentum"), trials=24, full=True), tmp_path))
    at = next(k for k, row in enumerate(page.rows) if "k = 1" in row["text"])
    assert re.findall(r"k = (\d+)(?=k|Share)", page.rows[at]["text"]) == ["1", "2", "4", "8", "16", "24"]
    assert re.findall(r"\d\.\d\d", page.rows[at + 1]["text"]) == [
        "0.50",
        "0.51",
        "0.52",
        "0.54",
        "0.57",
        "0.61",
        "0.30",
    ]


def test_a_verdict_of_nulls_is_rendered(usual: Any, tmp_path: Path) -> None:
    made = copy.deepcopy(usual)
    nothing = (
        "difference",
        "interval",
        "interval_unadjusted",
        "interval_given_settings",
        "p_adjusted",
        "seeds_needed",
        "settings",
    )
    made.verdict["contrasts"][0] |= dict.fromkeys(nothing) | {"verdict": "undecided", "diverged": None, "note": None}
    made.verdict["methods"]["momentum"] = dict.fromkeys(made.verdict["methods"]["momentum"])
    made.verdict |= dict.fromkeys(
        ("equal_dimension", "defaults", "horizons", "secondary", "time_to_target", "warnings", "caveats")
    )
    text = Page(built(made, tmp_path)).text
    assert "seeds alone do not decide" in text and "more seeds alone would not decide" in text
    assert "Other comparisons" not in text and "None" not in text


def test_a_study_without_runs_has_its_verdict(usual: Any, tmp_path: Path) -> None:
    made = copy.deepcopy(usual)
    made.runs = made.runs.clear()
    page = Page(built(made, tmp_path))
    assert list(page.specs) == ["differences"] and len(page.rows) > 4


def test_names_are_escaped_everywhere(make: Make, tmp_path: Path) -> None:
    made = make(("sgd", "momentum"), trials=16)
    odd = "<b>&\"'</script><script>alert(1)</script>"
    made.verdict["methods"][odd] = made.verdict["methods"].pop("momentum")
    made.verdict["contrasts"][0]["method"] = odd
    made.verdict["problem"], made.verdict["warnings"], made.study["problem"] = odd, [odd], odd
    made.runs = made.runs.with_columns(pl.col("method").replace("momentum", odd))
    text = built(made, tmp_path)
    assert "<script>alert" not in text and "<b>" not in text.replace(odd, "").split("<script>")[0]
    page = Page(text)
    assert f"Does {odd} pay on {odd}?" in page.text
    assert odd in json.dumps(page.specs, ensure_ascii=False).replace('\\"', '"')


def test_what_the_user_runs_now_takes_part(make: Make, tmp_path: Path) -> None:
    made = make(("sgd", "momentum"), trials=16)
    facts = made.verdict["methods"]["sgd"]
    made.verdict["current"] = {"settings": facts["settings"], "score": facts["score"]}
    made.study["current"] = {"method": "sgd", **facts["settings"]}
    made.verdict["contrasts"].append(made.verdict["contrasts"][0] | {"versus": "current"})
    study = Material(made.verdict, made.runs, made.study)
    assert len(study.seeds.filter(versus="current")) == 20
    assert "not searched" in Page(built(made, tmp_path)).text


def test_the_command_runs_the_same_study_again(usual: Any) -> None:
    line = command(usual.study)
    assert line.startswith("ravine compare digits --methods=sgd,momentum,nesterov,adam --baseline=sgd --steps=1000")
    moved = usual.study | {
        "source": usual.study["source"] | {"kind": "file", "path": "/somewhere/my net.py"},
        "full": True,
    }
    assert "ravine compare 'my net.py'" in command(moved) and command(moved).endswith(" --full")
    made = usual.study | {"source": usual.study["source"] | {"kind": "object"}}
    assert command(made).startswith("ravine.compare(problem, methods='sgd,")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_charts_are_exported_as_pictures(suffix: str, usual: Any, tmp_path: Path) -> None:
    drawn = report.drawings(usual.verdict, usual.runs, usual.study)
    assert list(drawn) == ["differences", "curves", "gaps", "expected", "sgd", "momentum", "nesterov", "adam"]
    path = report.export(drawn["differences"], tmp_path / f"picture{suffix}")
    content = path.read_bytes()
    assert len(content) > 4000
    assert content.startswith(b"\x89PNG") if suffix == ".png" else re.search(rb'<svg[^>]* width="760"', content)


def test_an_unknown_picture_format_is_refused(material: Material, tmp_path: Path) -> None:
    chart = figures(material)["expected"].chart
    with pytest.raises(UserError, match="\\.svg or \\.png, not as 'picture\\.gif'"):
        report.export(chart, tmp_path / "picture.gif")
