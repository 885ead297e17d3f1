"""The analysis of a network's layers as plain values, as JSON, and as a picture that stands alone.

The picture has a row a layer, the most sensitive first: on the left what pruning it alone does to the predictions, on the
right how much of it each rule would keep. Markers differ in shape as well as in colour (Okabe and Ito's eight, which
colour-blind people tell apart).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from sparsify_cli.pages.svg import VARIABLES, draw, plain_axis
from sparsify_cli.pages.wording import clean, round_percent, shorten

SCHEMA = "sparsify/analysis/1"
LEVELS = (Fraction(1, 2), Fraction(4, 5), Fraction(9, 10))
"""Shares of zeros that people are shown."""

PAINTED = 60
"""Layers that a picture has room for."""

ROW, FRAME, WIDTH = 21, 130, 900
SPREAD = 0.13
"""Of a row, between the marks of two rules."""

SMALLEST = 1e-6
"""The left end of the logarithmic axis, nats: less is no difference."""

LIGHT = {
    "ink": "#1a1e23", "muted": "#59626d", "line": "#dbe0e6", "accent": "#0072b2", "dense": "#68717c", "worse": "#b84a00",
    "better": "#00755a", "paper": "#ffffff",
}  # fmt: skip
LEVEL_MARKS = (("o", "#56b4e9"), ("s", "#0072b2"), ("^", "#1a1e23"))
RULE_MARKS = (("o", "#68717c"), ("s", "#e69f00"), ("^", "#009e73"), ("v", "#cc79a7"), ("D", "#0072b2"), ("P", "#d55e00"), ("X", "#000000"))
FONTS = "DejaVu Sans, Verdana, Arial, sans-serif"


@dataclass(frozen=True)
class Rung:
    """A level at which a layer was pruned alone.

    Args:
        kept: weights it kept.
        output_error: mean squared error of its outputs, relative to their mean square.
        divergence: of the network's predictions from the dense ones, nats; of numbers the squared distance, relative to their square.
        measured: False when the divergence lies between measured ones.
    """

    kept: int
    output_error: float
    divergence: float
    measured: bool


@dataclass(frozen=True)
class LayerAnalysis:
    """What is known of a layer.

    Args:
        name: of its tensor.
        shape: of its tensor.
        weights: it has.
        macs: multiply-accumulates of one sample that it takes; 0 when it is not run.
        output_errors, divergences: at each of `LEVELS`; empty when it could not be measured.
        kept: weights that each rule keeps.
        ladder: every level that was tried.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    macs: int
    output_errors: tuple[float, ...]
    divergences: tuple[float, ...]
    kept: Mapping[str, int]
    ladder: tuple[Rung, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        at = {
            f"{float(level):g}": {"output_error": error, "divergence": divergence}
            for level, error, divergence in zip(LEVELS, self.output_errors, self.divergences, strict=False)
        }
        numbers = {"name": self.name, "shape": list(self.shape), "weights": self.weights, "macs": self.macs, "kept": dict(self.kept)}
        return {**numbers, "at_sparsity": at, "ladder": [asdict(rung) for rung in self.ladder]}


@dataclass(frozen=True)
class RulePlan:
    """What a rule would give.

    Args:
        sparsity: share of zeros among prunable weights.
        macs: share of the network's multiply-accumulates that stay, if zeros were skipped.
        divergence: the sum over layers of what each costs alone, nats; None where a layer is emptied, which no level tells.
        emptied: layers that keep no weight.
    """

    sparsity: float
    macs: float
    divergence: float | None
    emptied: int

    @property
    def rank(self) -> tuple[int, float]:
        """Lower is better: first whether layers are emptied, then what it costs."""
        return self.emptied, self.divergence or 0.0


@dataclass(frozen=True)
class Analysis:
    """The layers of a network, the most sensitive first.

    Args:
        title: what was analysed, and at which target.
        layers: measured ones first.
        rules: those that could be followed.
        refused: rule -> why it could not be followed.
        macs: multiply-accumulates of one sample of the whole network.
        best: the rule that is recommended.
        unit: of divergences: `nats`, or `of their square` where the outputs are numbers.
    """

    title: str
    layers: tuple[LayerAnalysis, ...]
    rules: Mapping[str, RulePlan]
    refused: Mapping[str, str]
    macs: int
    best: str
    unit: str = "nats"

    @property
    def weights(self) -> int:
        """Prunable weights."""
        return sum(layer.weights for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = {"weights": self.weights, "macs": self.macs, "best": self.best, "unit": self.unit, "refused": dict(self.refused)}
        rules = {name: asdict(plan) for name, plan in self.rules.items()}
        return {**told, "rules": rules, "layers": [layer.to_json() for layer in self.layers]}


def picture(analysis: Analysis) -> str:
    """The analysis as an SVG file of its own, on white."""
    shown = analysis.layers[:PAINTED]
    left_out = f" The first {PAINTED} of {len(analysis.layers)} layers." if len(analysis.layers) > len(shown) else ""

    def paint(axes: Axes) -> None:
        figure: Any = axes.figure
        axes.remove()
        left, right = figure.subplots(1, 2, sharey=True)
        figure.suptitle(clean(analysis.title), x=0.01, ha="left", fontsize=14)
        _sensitivities(left, shown, analysis.unit)
        _shares(right, shown, list(analysis.rules))

    told = "; ".join(_told(layer, analysis.unit) for layer in shown)
    drawn = draw("analysis", analysis.title, f"{told}.{left_out}", paint, height=FRAME + ROW * len(shown), width=WIDTH)
    return standalone(str(drawn))


def standalone(drawn: str) -> str:
    """A figure of a page as a file: on white, with the colours of a light page and a font."""
    for name in VARIABLES.values():
        drawn = drawn.replace(f"var(--{name})", LIGHT[name])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" font-family="{FONTS}" stroke-linejoin="round" '
    drawn = drawn.replace("<svg ", head, 1).replace("</desc>", f'</desc><rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>', 1)
    return re.sub(r"style=\"max-width:[^\"]*\"", "", drawn, count=1) + "\n"


def _told(layer: LayerAnalysis, unit: str) -> str:
    if not layer.divergences:
        return layer.name
    return f"{layer.name} {layer.divergences[-1]:.2g} {unit} at {round_percent(float(LEVELS[-1]))} zeros"


def _sensitivities(axes: Axes, layers: Sequence[LayerAnalysis], unit: str) -> None:
    """What comes out when one layer alone is pruned."""
    rows = [row for row, layer in enumerate(layers) if layer.divergences]
    found = [[max(SMALLEST, value) for value in layers[row].divergences] for row in rows]
    axes.hlines(rows, [min(values) for values in found], [max(values) for values in found], color=LIGHT["line"], linewidth=2, zorder=1)
    for at, (level, (marker, colour)) in enumerate(zip(LEVELS, LEVEL_MARKS, strict=True)):
        label = f"{round_percent(float(level))} zeros"
        axes.scatter([values[at] for values in found], rows, marker=marker, color=colour, s=32, label=label, zorder=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"divergence of the predictions from the dense ones, {unit} (logarithmic)")
    axes.set_yticks(range(len(layers)), [shorten(clean(layer.name), 28) for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    _finished(axes, "When this layer alone is pruned", columns=len(LEVELS))


def _shares(axes: Axes, layers: Sequence[LayerAnalysis], rules: Sequence[str]) -> None:
    """How much of each layer every rule keeps; the marks of a row lie a little below each other, for many are alike."""
    axes.hlines(range(len(layers)), 0, 100, color=LIGHT["line"], linewidth=0.8, zorder=1)
    for at, (rule, (marker, colour)) in enumerate(zip(rules, RULE_MARKS, strict=False)):
        kept = [100 * layer.kept[rule] / max(1, layer.weights) for layer in layers]
        rows = [row + SPREAD * (at - (len(rules) - 1) / 2) for row in range(len(layers))]
        axes.scatter(kept, rows, marker=marker, color=colour, s=26, label=rule, zorder=2)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("weights of the layer that stay, %")
    _finished(axes, "What each rule would keep", columns=max(1, len(rules)))


def _finished(axes: Axes, title: str, *, columns: int) -> None:
    plain_axis(axes)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, loc="left", pad=26, fontsize=12)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, frameon=False, fontsize=10, handletextpad=0.1, columnspacing=1.0
    )
