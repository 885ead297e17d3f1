"""Sending unsure samples to the dense model: what it gains and what it costs, for shares of the samples.

Time is that of the compressed network for all samples and of the dense one for those that go, relative to the dense one for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from sparsify_cli.pages.svg import COMPRESSED, DENSE, GRID, draw
from sparsify_cli.pages.tables import Cell, cell
from sparsify_cli.pages.view import View, missing
from sparsify_cli.pages.wording import judge, ratio, round_percent, said
from sparsify_cli.values.report import Finding

SCOPE = "routed:"
HEIGHT, WIDTH = 230, 380


@dataclass(frozen=True)
class Point:
    """One share.

    Args:
        share: of samples that the dense model answers.
        where: which they are, in words.
        cells: accuracy, its change against the dense model, time against the dense model.
        reading: of the change.
    """

    share: float
    where: str
    cells: tuple[Cell, ...]
    reading: str


def points(view: View) -> list[Point]:
    """The curve, from no sample on; empty where it was not measured."""
    scopes = view.scopes("routed", "routing")
    alone, change = view.number("accuracy"), view.change("accuracy")
    if not scopes or missing(alone):
        return []
    first = Point(0.0, "none", (cell(alone), cell(change, judge(change)), Cell(_time(view, 0.0))), said(change))
    return [first, *(_point(view, scope) for scope in scopes)]


def sentence(view: View) -> str:
    """How large a share is needed for the dense model's accuracy."""
    needed = view.number("routing_share")
    if needed is None or needed.value is None:
        return ""
    if needed.value == 0:
        return "On these samples the compressed model needs no help: its accuracy is within 0.1 points of the dense model's."
    share = round_percent(needed.value)
    return f"When at least the {share} of samples it is least sure of go to the dense model, accuracy is within 0.1 points of that model's."


def figure(view: View, found: Sequence[Point]) -> Markup:
    """Accuracy against the share, with intervals; the dense model is a broken line."""
    numbers = [view.number("accuracy"), *(view.number("routing", scope=f"{SCOPE}{p.share:g}") for p in found[1:])]
    across, known = [100 * p.share for p in found], [_bounds(f) for f in numbers]
    dense = view.dense("accuracy")

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        if dense is not None and dense.value is not None:
            axes.axhline(100 * dense.value, color=DENSE, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.vlines(across, [low for low, _, _ in known], [high for _, _, high in known], color=COMPRESSED, linewidth=1.2)
        axes.plot(across, [value for _, value, _ in known], color=COMPRESSED, marker="o", markersize=3.5, linewidth=1.6)
        axes.set(xlabel="samples answered by the dense model, %", ylabel="accuracy, %")

    told = "; ".join(f"{x:.0f} %: {value:.1f}" for x, (_, value, _) in zip(across, known, strict=True))
    return draw("fig-routing", "Accuracy with the dense model's help", f"{told}.", paint, height=HEIGHT, width=WIDTH)


def _point(view: View, scope: str) -> Point:
    share = float(scope.removeprefix(SCOPE))
    now, change = view.number("routing", scope=scope), view.change("routing", scope=scope)
    cells = (cell(now), cell(change, judge(change)), Cell(_time(view, share)))
    return Point(share, now.note.partition(";")[0] if now else "", cells, said(change))


def _time(view: View, share: float) -> str:
    now, dense = view.number("latency_ms"), view.dense("latency_ms")
    if now is None or dense is None or not now.value or not dense.value:
        return "\u2013"
    return ratio(now.value / dense.value + share)


def _bounds(finding: Finding | None) -> tuple[float, float, float]:
    """Low end, value and high end, percent."""
    if finding is None or finding.value is None:
        return (0.0, 0.0, 0.0)
    low, high = (finding.value if end is None else end for end in (finding.low, finding.high))
    return (100 * low, 100 * finding.value, 100 * high)
