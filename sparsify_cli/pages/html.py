"""One self-contained HTML file: no network, no scripts, figures and images inside, every text escaped.

The same view gives the same bytes: nothing here reads the clock, the machine or the order of a set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sparsify_cli.pages import against_sparsity, bias, figures, routing, tables, training_curves
from sparsify_cli.pages.document import plain
from sparsify_cli.pages.glossary import label
from sparsify_cli.pages.images import data_uri
from sparsify_cli.pages.verdict import called, cards, gain, speed, who_pays
from sparsify_cli.pages.view import Reliability, View, missing
from sparsify_cli.pages.wording import SAID, clean, count, percent, ratio, spoken, tie

SHOWN_EXEMPLARS = 48
SIGNS = {"worse": "\u25bc", "better": "\u25b2", "noise": "\u25cf", "same": "\u25cf", "higher": "\u2191", "lower": "\u2193", "unsure": "?"}


def render_html(view: View) -> str:
    """The whole page as text; write it as UTF-8."""
    return clean(_environment().get_template("report.html.j2").render(_context(view)))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, count=count, tie=tie)
    return environment


def _context(view: View) -> dict[str, Any]:
    """Every name the template uses."""
    return {
        "view": view,
        "verdict": against_sparsity.headline(view),
        "who_pays": who_pays(view),
        "cards": cards(view),
        "hero": [figures.stage_accuracy(view), figures.stage_bytes(view)],
        "comparison": tables.comparison(view),
        "forgetting": tables.forgetting(view),
        "speed": speed(view),
        "sizes": tables.sizes(view),
        "times": tables.times(view),
        "trainings": training_curves.drawn(view.curves),
        "shares": {curve.name: curve.share for curve in view.curves},
        "layers": figures.layer_bars(view.layers) if view.layers else None,
        "slices": [*([_answers(view)] if view.quality == "accuracy" else []), _slices(view, "group", "groups", "Group")],
        "confidence": tables.confidence(view),
        "forecast": tables.forecast(view),
        "against": _against(view),
        "reliability": _reliability(view),
        "bias": bias.rows(view),
        "routed": _routed(view),
        "exemplars": _exemplars(view),
        "texts": view.quality == "perplexity",
        "changed": _changed(view),
        "everything": [(stage, tables.everything(stage)) for stage in view.stages],
        "recipes": [(stage.name, _pretty(plain(stage.recipe))) for stage in view.stages if stage.recipe],
        "samples": _samples(view),
        "quality": label(view.quality),
        "chooses": view.quality == "accuracy",
        "signs": SIGNS,
        "said": SAID,
    }


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _against(view: View) -> dict[str, Any] | None:
    """Curves and a table against sparsity; nothing with fewer than three sparsities."""
    found = against_sparsity.points(view)
    if not found:
        return None
    said, drawn = against_sparsity.verdict(found, called(view)), against_sparsity.figures(view, found)
    return {"points": found, "said": said, "figures": drawn, "columns": against_sparsity.COLUMNS[view.quality]}


def _answers(view: View) -> dict[str, Any]:
    """Slices by what is asked: attributes where there are any, else classes."""
    if view.scopes("attribute"):
        return _slices(view, "attribute", "attributes", "Attribute")
    return _slices(view, "class", "classes", "Class")


def _slices(view: View, kind: str, plural: str, heading: str) -> dict[str, Any]:
    """Figures and table of one kind of slice; when there are many, the figures show those that lost most."""
    scopes = view.scopes(kind, view.quality)
    drawn = scopes if len(scopes) <= figures.SHOWN_SLICES else sorted(scopes, key=lambda s: _loss(view, s))[: figures.SHOWN_SLICES]
    names = [scope.partition(":")[2].replace("=", " = ", 1) if kind == "group" else scope.partition(":")[2] for scope in drawn]
    pictures: Sequence[Markup] = ()
    if drawn:
        name = view.quality
        both = [(n, view.dense(name, s), view.number(name, scope=s)) for n, s in zip(names, drawn, strict=True)]
        changes = [(n, view.change(name, scope=s)) for n, s in zip(names, drawn, strict=True)]
        pictures = (
            figures.slice_accuracy(f"fig-{kind}-accuracy", f"{label(name)} per {kind}", both, label(name).lower()),
            figures.slice_change(f"fig-{kind}-change", f"Change of {called(view)} per {kind}", changes),
        )
    return {"kind": kind, "plural": plural, "heading": heading, "figures": pictures, "rows": tables.sliced(view, kind), "drawn": len(drawn)}


def _loss(view: View, scope: str) -> float:
    change = view.change(view.quality, scope=scope)
    return math.inf if change is None or missing(change) else gain(change)


def _routed(view: View) -> dict[str, Any] | None:
    """What sending unsure samples to the dense model gains; nothing where it was not measured."""
    found = routing.points(view) if view.about.verb != "unlearn" else []  # its dense model still holds what was forgotten
    return {"points": found, "said": routing.sentence(view), "figure": routing.figure(view, found)} if found else None


def _reliability(view: View) -> list[dict[str, Any]]:
    dense = view.stages[0].name
    return [
        {"name": model.name, "figure": figures.reliability(i, model, dense=model.name in {dense, "dense"})}
        for i, model in enumerate(Reliability(*item) for item in view.reliability)
    ]


def _exemplars(view: View) -> list[dict[str, Any]]:
    return [{"it": sample, "uri": data_uri(sample.image)} for sample in view.exemplars[:SHOWN_EXEMPLARS]]


def _changed(view: View) -> dict[str, str]:
    """Sentences about how many answers changed; empty strings when it was not measured."""
    churn, found, lift = view.number("churn"), view.number("exemplars"), view.number("exemplars_lift")
    return {
        "churn": "" if missing(churn) else spoken(churn),
        "exemplars": "" if missing(found) else spoken(found),
        "lift": "" if lift is None or missing(lift) else ratio(lift.value or 0),
    }


def _samples(view: View) -> str:
    now = view.number(view.quality)
    return count(now.n) if now and now.n else ""
