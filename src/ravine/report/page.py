"""The page: what the template is given, in the order in which it is read."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from ravine.report import frames, words
from ravine.report.figures import Material, figures, maps
from ravine.report.theme import method_colour

HERE = Path(__file__).parent
HIDDEN = ("chunks",)  # a long table of the declaration that no reader of a report needs


@dataclass(frozen=True)
class Strip:
    """The common axis of the drawings in the verdict strip, in per cent of their width."""

    low: float
    high: float

    @classmethod
    def over(cls, contrasts: Sequence[Mapping[str, Any]], margin: float) -> "Strip":
        """Wide enough for every interval, the margin band and zero."""
        ends = [end for c in contrasts for end in (c.get("interval") or [c.get("difference")]) if end is not None]
        low, high = min([-1.5 * margin, *ends, 0.0]), max([1.5 * margin, *ends, 0.0])
        pad = 0.06 * (high - low) or 1.0
        return cls(low - pad, high + pad)

    def at(self, value: float) -> float:
        """Where `value` lies."""
        return round(100 * (value - self.low) / (self.high - self.low), 3)


def render(study: Material, cost: Mapping[str, Mapping[str, float]], directory: str) -> str:
    """The report as one HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": words.plain, "seconds": words.seconds}
    verdict, numbers = study.verdict, study.numbers
    drawn, searched = figures(study), maps(study)
    return environment.get_template("template.html.jinja").render(
        verdict=verdict,
        study=study.study,
        cost=cost,
        n=numbers,
        words=words,
        strip=Strip.over(verdict["contrasts"], numbers.margin),
        methods=study.methods,
        colours={name: method_colour(index) for index, name in enumerate(study.methods)},
        effective=frames.effective_lr,
        value=lambda score: None if score is None else float(study.endpoint.value(score)),
        figures=drawn,
        maps=searched,
        others=list(other_contrasts(verdict)),
        secondary=secondary(verdict),
        wins=wins(verdict),
        seeds=seed_table(study),
        declaration=list(leaves(study.study)),
        identity=identity(study.study),
        command=command(study.study),
        directory=directory,
        specs=script_json({figure.key: figure.spec for figure in [*drawn.values(), *searched]}),
        css=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "script.js").read_text(encoding="utf-8")),
        bundle=bundle(),
    )


@cache
def bundle() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, of which the page's own script needs the door."""
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def other_contrasts(verdict: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Title, explanation and contrasts of the secondary comparisons that the verdict holds."""
    if verdict.get("equal_dimension"):
        text = "Momentum fixed, only the learning rate tuned: every method searched equally many dimensions."
        yield "Equal dimension", text, verdict["equal_dimension"]
    if verdict.get("defaults"):
        yield "Defaults", "Every method untuned, at its default settings.", verdict["defaults"]
    for horizon in verdict.get("horizons") or []:
        text = "Settings chosen at this step and judged at this step: what you would have if you stopped here."
        yield f"Stopping after {horizon['steps']:,} steps", text, horizon["contrasts"]


def secondary(verdict: Mapping[str, Any]) -> list[tuple[str, words.Numbers, list[Mapping[str, Any]]]]:
    """Name, number format and contrasts of every secondary endpoint."""
    found = verdict.get("secondary") or []
    return [(one["endpoint"], words.Numbers(one["unit"], 0.0), one["contrasts"]) for one in found]


def wins(verdict: Mapping[str, Any]) -> tuple[list[int], list[tuple[str, str, list[float], float]]] | None:
    """What simulated studies found (`--full`): numbers of trials k; per contrast its chances of winning at each k.

    The last entry of a contrast is the share of the variance that tuning had at the largest k. None without `--full`.
    """
    found = verdict.get("study_variance")
    if not found:
        return None
    largest = max(len(pair["wins"]) for pair in found["pairs"])
    counts = [2**k for k in range(largest.bit_length()) if 2**k < largest] + [largest]
    rows = [
        (p["method"], p["versus"], [p["wins"][k - 1] for k in counts], p["tuning_share"][-1]) for p in found["pairs"]
    ]
    return counts, rows


def seed_table(study: Material) -> tuple[list[str], list[list[Any]]]:
    """The dots of the paired differences as numbers: a row per seed, a column per contrast."""
    cells = {(r["method"], r["versus"], r["seed"]): r["difference"] for r in study.seeds.iter_rows(named=True)}
    labels = [f"{method} versus {versus}" for method, versus in study.pairs]
    seeds = study.seeds["seed"].unique().sort().to_list()
    return labels, [[seed, *(cells.get((*pair, seed)) for pair in study.pairs)] for seed in seeds]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The declaration as rows: nested keys joined by dots, long tables left out."""
    for key, item in tree.items():
        name = f"{prefix}{key}"
        if key in HIDDEN:
            continue
        if isinstance(item, Mapping):
            yield from leaves(item, f"{name}.")
        elif isinstance(item, list) and item and all(isinstance(part, Mapping) for part in item):
            for index, part in enumerate(item):
                yield from leaves(part, f"{name}[{index}].")
        else:
            yield name, item


def identity(study: Mapping[str, Any]) -> str:
    """Short digest of the declaration: two reports with the same one show the same study."""
    return hashlib.sha256(json.dumps(study, sort_keys=True, default=str).encode()).hexdigest()[:12]


def command(study: Mapping[str, Any]) -> str:
    """What to type to run the study again, with nothing left to defaults."""
    source = study["source"]
    options: dict[str, Any] = {"methods": ",".join(study["methods"]), "baseline": study["baseline"]}
    options |= {name: study[name] for name in ("steps", "batch_size", "trials", "tuning_seeds", "seeds", "study_seed")}
    options |= {"endpoint": study["endpoint"]["name"], "margin": study["endpoint"]["margin"]}
    options |= {name: study["execution"][name] for name in ("executor", "device")}
    if source["kind"] == "object":
        return f"ravine.compare(problem, {', '.join(f'{name}={value!r}' for name, value in options.items())})"
    problem = Path(source["path"]).name if source["path"] else source["name"]
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return shlex.join(["ravine", "compare", problem, *words, *(["--full"] if study["full"] else [])])


def script_json(tree: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
