"""Numbers against sparsity, where a page shows a network at three sparsities or more: where harm starts, and what is worth its bytes.

    as dense        neither accuracy nor the share of unsure answers is changed beyond noise
    less sure       accuracy is not worse beyond noise, but more answers are unsure
    worse           accuracy is worse beyond noise
    not known       there is not enough data to say

Where answers are texts or numbers, perplexity or the error stands in the place of accuracy, and nothing is called less sure. What is worth
its bytes and its time: `trade_offs.py`. Parameter efficiency is the number of parameters removed for each point of accuracy lost, where
some was lost beyond noise.

Source: the three regimes follow the findings of Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622); the rules are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes

from sparsify_cli.pages.svg import COMPRESSED, DENSE, GRID, draw
from sparsify_cli.pages.tables import Cell, cell
from sparsify_cli.pages.trade_offs import Offer, unbeaten
from sparsify_cli.pages.trade_offs import figures as trade_offs
from sparsify_cli.pages.verdict import called
from sparsify_cli.pages.verdict import verdict as one_verdict
from sparsify_cli.pages.view import View, missing
from sparsify_cli.pages.wording import clean, judge, listed, percent, significant
from sparsify_cli.values.report import Finding

STEEP = 100
"""Times the lowest that the highest number may be before the axis is logarithmic."""
LEAST = 3
"""Sparsities that a curve needs."""
AS_DENSE, LESS_SURE, WORSE, UNKNOWN = "as dense", "less sure", "worse", "not known"
CURVES = {
    "accuracy": (("accuracy", "accuracy, %"), ("uncertainty", "unsure answers, %"), ("ece", "calibration error, %")),
    "perplexity": (
        ("perplexity", "perplexity"),
        ("accuracy", "next tokens right, %"),
        ("token_agreement", "tokens as the dense one says, %"),
    ),
    "rmse": (("rmse", "root mean square error"), ("mae", "mean absolute error"), ("output_shift", "distance from the dense one's outputs")),
}
"""What is drawn, by what says how good networks are; in percent where the label says so."""
COLUMNS = {
    "accuracy": (
        "Accuracy",
        "Change",
        "Worst class or group",
        "Unsure",
        "Calibration error",
        "Packed",
        "Time",
        "Parameters removed a lost point",
    ),
    "perplexity": ("Perplexity", "Change", "Worst group", "Next tokens right", "As the dense one says", "Packed", "Time"),
    "rmse": ("Root mean square error", "Change", "Worst group", "Mean absolute error", "From the dense outputs", "Packed", "Time"),
}
HEIGHT, WIDTH = 220, 300


@dataclass(frozen=True)
class Point:
    """One network.

    Args:
        name: of its column.
        index: of its stage.
        sparsity: of its prunable weights.
        regime: what became of it.
        unbeaten: for which gain and cost no other network is better, in words.
        cells: one for each of `COLUMNS`.
    """

    name: str
    index: int
    sparsity: float
    regime: str
    unbeaten: tuple[str, ...]
    cells: tuple[Cell, ...]


def points(view: View) -> list[Point]:
    """The networks by sparsity, the dense one first; none where there are fewer than three sparse ones."""
    known = {i: view.number("sparsity", i) for i in range(1, len(view.stages))}
    sparse = {i: f.value for i, f in known.items() if f is not None and f.value and view.number(view.quality, i)}
    if len(set(sparse.values())) < LEAST:
        return []
    order = [0, *sorted(sparse, key=lambda i: sparse[i])]
    best = unbeaten([_offer(view, i, sparse.get(i, 0.0)) for i in order], called(view))
    return [_point(view, i, sparse.get(i, 0.0), words) for i, words in zip(order, best, strict=True)]


def _offer(view: View, index: int, sparsity: float) -> Offer:
    time = view.number("latency_ms", index)
    good, worst = (_goodness(one) for one in (view.number(view.quality, index), _lowest(view, index)))
    return Offer(sparsity, _value(_bytes(view, index)), _value(time), good, worst)


class Harm(NamedTuple):
    """Where harm starts: sparsities, None where it is nowhere here.

    Args:
        as_dense_up_to: the highest below which no network here is changed beyond noise, itself included.
        less_sure_from: the lowest at which more answers are unsure while accuracy holds.
        worse_from: the lowest at which accuracy (perplexity, error) is worse.
        uneven: harm does not follow sparsity, so there is no such place; or networks of one sparsity fare differently.
    """

    as_dense_up_to: float | None = None
    less_sure_from: float | None = None
    worse_from: float | None = None
    uneven: bool = False


def harm(found: Sequence[Point]) -> Harm:
    """Of networks by sparsity, the dense one first."""
    if not _grows(found):
        return Harm(uneven=True)
    same = list(takewhile(lambda p: p.regime == AS_DENSE, found[1:]))
    unsure, worse = (next((p.sparsity for p in found[1:] if p.regime == regime), None) for regime in (LESS_SURE, WORSE))
    return Harm(same[-1].sparsity if same else None, unsure, worse)


def verdict(found: Sequence[Point], about: str = "accuracy") -> str:
    """Where harm starts, in one or two sentences.

    Args:
        found: the networks by sparsity.
        about: what says how good they are.
    """
    if all(p.regime == UNKNOWN for p in found[1:]):
        return f"There is not enough data to say where {about} changes."
    same, unsure, worse, uneven = harm(found)
    if uneven:
        return _uneven(found, about)
    none = "Where all is as it was is not known" if found[1].regime == UNKNOWN else "No sparsity here leaves all as it was"
    parts = [f"Up to {percent(same)} zeros nothing is changed beyond noise" if same is not None else none]
    parts += [f"from {percent(unsure)} more answers are unsure while accuracy holds"] if unsure is not None else []
    nowhere = [f"{about} is nowhere worse beyond noise"] if all(p.regime != UNKNOWN for p in found) else []
    parts += [f"from {percent(worse)} {about} is worse"] if worse is not None else nowhere
    return f"{'; '.join(parts)}."


def _grows(found: Sequence[Point]) -> bool:
    """Whether no network is in a milder regime than a less sparse one."""
    known = [p for p in found[1:] if p.regime != UNKNOWN]
    order = [(AS_DENSE, LESS_SURE, WORSE).index(p.regime) for p in known]
    alike = all(one.regime == next_.regime for one, next_ in pairwise(known) if one.sparsity == next_.sparsity)
    return alike and order == sorted(order)


def _uneven(found: Sequence[Point], about: str) -> str:
    """Which networks are worse and which are not, where that does not follow sparsity."""
    often = Counter(p.sparsity for p in found)
    said = [(p.regime, p.name if often[p.sparsity] > 1 else f"{percent(p.sparsity)} zeros") for p in found[1:]]
    at = {kind: listed([words for one, words in said if one == kind]) for kind in (WORSE, LESS_SURE, AS_DENSE)}
    parts = [f"{about} is worse with {at[WORSE]}"] if at[WORSE] else []
    parts += [f"it holds while more answers are unsure with {at[LESS_SURE]}"] if at[LESS_SURE] else []
    parts += [f"nothing is changed with {at[AS_DENSE]}"] if at[AS_DENSE] else []
    return f"Harm does not follow sparsity here, beyond noise: {'; '.join(parts)}."


def headline(view: View) -> str:
    """The page in a sentence or two: of many sparsities where harm starts, then what became of the network it is about."""
    found, several = points(view), len(view.stages) > 2
    about = f"{view.about.name}: {one_verdict(view)}" if several else one_verdict(view)
    return f"{verdict(found, called(view))} {about}" if found else about


def figures(view: View, found: Sequence[Point]) -> list[tuple[str, Markup]]:
    """A curve for each number that three networks have, and what it costs in bytes."""
    drawn = [(name, label) for name, label in CURVES[view.quality] if sum(not missing(view.number(name, p.index)) for p in found) >= LEAST]
    curves = [(label, _curve(view, found, name, label)) for name, label in drawn]
    lower = view.quality != "accuracy"
    return curves + trade_offs([_offer(view, p.index, p.sparsity) for p in found], CURVES[view.quality][0][1], -1.0 if lower else 1.0)


def regime(view: View, index: int) -> str:
    """What became of a network."""
    judged = judge(view.change(view.quality, index))
    if judged in ("worse", "unknown", "unsure"):
        return WORSE if judged == "worse" else UNKNOWN
    return LESS_SURE if judge(view.change("uncertainty", index)) in ("higher", "worse") else AS_DENSE


def _point(view: View, index: int, sparsity: float, best: tuple[str, ...]) -> Point:
    change = view.change(view.quality, index) if index else None
    kind = regime(view, index) if index else AS_DENSE
    others = [cell(view.number(name, index)) for name, _ in CURVES[view.quality][1:]]
    efficiency = [Cell(_efficiency(view, index, change) if kind == WORSE else "\u2013")] if view.quality == "accuracy" else []
    first = (cell(view.number(view.quality, index)), cell(change, judge(change)), cell(_lowest(view, index)))
    cells = (*first, *others, cell(_bytes(view, index)), cell(view.number("latency_ms", index)), *efficiency)
    return Point(clean(view.stages[index].name), index, sparsity, kind, best, cells)


def _lowest(view: View, index: int) -> Finding | None:
    """How the class, attribute or group fares that fares worst."""
    scopes = [scope for kind in ("class", "attribute", "group") for scope in view.scopes(kind) if scope.count("=") < 2]
    found = [f for scope in scopes if (f := view.number(view.quality, index, scope)) is not None and not missing(f)]
    return min(found, key=lambda f: _goodness(f) or 0.0, default=None)


def _goodness(finding: Finding | None) -> float | None:
    """The number, or minus it where lower is better."""
    value = _value(finding)
    return -value if value is not None and finding is not None and finding.better == "lower" else value


def _bytes(view: View, index: int) -> Finding | None:
    return view.number("bytes_packed", index) or view.number("bytes_dense", index)


def _efficiency(view: View, index: int, change: Finding | None) -> str:
    """Parameters removed for a lost point of accuracy."""
    left, all_of = view.number("nonzeros", index), view.dense("nonzeros")
    if missing(left) or missing(all_of) or left is None or all_of is None or change is None or not change.value:
        return "\u2013"
    return f"{((all_of.value or 0) - (left.value or 0)) / (-100 * change.value):,.0f}"


def _value(finding: Finding | None) -> float | None:
    return None if missing(finding) or finding is None else finding.value


def _curve(view: View, found: Sequence[Point], name: str, label: str) -> Markup:
    """One number against sparsity, with intervals; the dense network, where it has one, is a broken line."""
    measured = [(p, f) for p in found if (f := view.number(name, p.index)) is not None and not missing(f)]
    times = 100 if label.endswith("%") else 1
    across, up = [100 * p.sparsity for p, _ in measured], [times * (f.value or 0.0) for _, f in measured]
    ends = [
        (times * f.low, times * f.high) if f.low is not None and f.high is not None else (y, y)
        for (_, f), y in zip(measured, up, strict=True)
    ]

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        if not measured[0][0].index:
            axes.axhline(up[0], color=DENSE, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.vlines(across, [low for low, _ in ends], [high for _, high in ends], color=COMPRESSED, linewidth=1.2)
        axes.plot(across, up, color=COMPRESSED, marker="o", markersize=3.5, linewidth=1.6)
        axes.set(xlabel="zeros, % of the prunable weights", ylabel=label)
        if min(up) > 0 and max(up) > STEEP * min(up):
            axes.set_yscale("log")

    heights = [f"{y:.1f}" if times == 100 else significant(y) for y in up]
    told = "; ".join(f"{x:.0f} % zeros: {height}" for x, height in zip(across, heights, strict=True))
    return draw(f"fig-against-{name}", f"{label.capitalize()} against sparsity", f"{told}.", paint, height=HEIGHT, width=WIDTH)
