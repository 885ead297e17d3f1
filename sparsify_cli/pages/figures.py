"""The pictures: stages, classes and groups with intervals, layers, reliability.

Colour never carries meaning alone: the dense model is an open circle, the compressed one a filled one, losses and gains
beyond noise have triangles pointing down and up.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparsify_cli.pages.glossary import label
from sparsify_cli.pages.svg import BETTER, COMPRESSED, DENSE, GRID, INK, MUTED, PAPER, WORSE, draw, plain_axis
from sparsify_cli.pages.view import Layer, Reliability, View, missing
from sparsify_cli.pages.wording import clean, judge, layer_name, percent, shorten, signed, size, spoken
from sparsify_cli.values.report import Finding

ROW = 25
FRAME = 62
PERCENT = 100.0
NAMED_LAYERS = 40
SHOWN_SLICES = 30
Rows = Sequence[tuple[str, Finding | None]]


def stage_accuracy(view: View) -> Markup:
    """Accuracy (or what stands for it) of every stage with its 95 % interval; the dense value is a line through all rows."""
    name = view.quality
    rows = [(stage.name, view.number(name, i)) for i, stage in enumerate(view.stages)]
    reference = view.dense(name)

    def paint(axes: Axes) -> None:
        _name_rows(axes, [name for name, _ in rows], view.index)
        if reference and not missing(reference):
            axes.axvline(_scale(reference) * (reference.value or 0), color=DENSE, linewidth=1, linestyle=(0, (4, 3)))
        for row, (_, finding) in enumerate(rows):
            _interval(axes, row, finding, dense=row == 0)
            _margin(axes, row, _short(finding))
        axes.set_xlabel(f"{label(name).lower()} on test data{_percent(reference)}")

    told = "; ".join(f"{name} {_short(finding)}" for name, finding in rows)
    return draw("fig-stages", f"{label(name)} of every stage", f"With 95 % intervals. {told}.", paint, height=FRAME + ROW * len(rows))


def stage_bytes(view: View) -> Markup:
    """Bytes on disk of every stage: the packed file where there is one, else the plain one."""
    rows = [(stage.name, view.number("bytes_packed", i) if i else None) for i, stage in enumerate(view.stages)]
    rows = [(name, found or view.number("bytes_dense", i)) for i, (name, found) in enumerate(rows)]
    values = [0.0 if missing(f) or f is None else f.value or 0.0 for _, f in rows]

    def paint(axes: Axes) -> None:
        _name_rows(axes, [name for name, _ in rows], view.index)
        axes.barh(range(len(rows)), values, height=0.5, color=[DENSE] + [COMPRESSED] * (len(rows) - 1))
        for row, (_, finding) in enumerate(rows):
            _margin(axes, row, "\u2013" if missing(finding) else size(values[row]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value) if value else "0"))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("bytes on disk")

    told = "; ".join(f"{name} {size(value)}" for (name, _), value in zip(rows, values, strict=True))
    return draw("fig-bytes", "Bytes on disk of every stage", f"{told}.", paint, height=FRAME + ROW * len(rows))


def slice_accuracy(name: str, title: str, rows: Sequence[tuple[str, Finding | None, Finding | None]], measured: str = "accuracy") -> Markup:
    """Accuracy of each class or group: dense as an open circle, compressed as a filled one, both with intervals."""

    def paint(axes: Axes) -> None:
        _name_rows(axes, [row[0] for row in rows])
        for row, (_, dense, compressed) in enumerate(rows):
            _interval(axes, row - 0.17, dense, dense=True)
            _interval(axes, row + 0.17, compressed, dense=False)
        axes.set_xlabel(f"{measured}{_percent(rows[0][1] or rows[0][2])}:  \u25cb dense   \u25cf compressed")

    told = "; ".join(f"{row[0]}: dense {_short(row[1])}, compressed {_short(row[2])}" for row in rows)
    return draw(name, title, f"With 95 % intervals. {told}.", paint, height=FRAME + ROW * len(rows))


def slice_change(name: str, title: str, rows: Rows) -> Markup:
    """Change of accuracy of each class or group with its interval; zero is a line."""

    def paint(axes: Axes) -> None:
        _name_rows(axes, [row[0] for row in rows])
        axes.axvline(0, color=INK, linewidth=1)
        for row, (_, change) in enumerate(rows):
            _change(axes, row, change)
        unit = "change in points" if _scale(rows[0][1]) == PERCENT else "change"
        axes.set_xlabel(f"{unit}:  \u25bc worse   \u25b2 better   \u25cf noise")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value, 0) if value == round(value) else signed(value)))

    told = "; ".join(f"{row[0]}: {'no number' if missing(row[1]) else spoken(row[1])}" for row in rows)
    return draw(name, title, f"With 95 % intervals. {told}.", paint, height=FRAME + ROW * len(rows))


def layer_bars(layers: Sequence[Layer]) -> Markup:
    """Each layer as a full bar: the filled part is what stays. Many layers become thin unnamed columns in network order."""
    zeros, total = sum(layer.weights - layer.kept for layer in layers), sum(layer.weights for layer in layers)
    told = f"{len(layers)} layers; {percent(zeros / total) if total else 'none'} of their weights are zero."
    if len(layers) > NAMED_LAYERS:
        return draw("fig-layers", "Sparsity of every layer", told, lambda axes: _columns(axes, layers), height=260, width=760)

    def paint(axes: Axes) -> None:
        _name_rows(axes, [layer_name(layer.name) for layer in layers])
        kept = [100 * (1 - layer.sparsity) for layer in layers]
        axes.barh(range(len(layers)), [100] * len(layers), height=0.55, facecolor="none", edgecolor=GRID)
        axes.barh(range(len(layers)), kept, height=0.55, color=COMPRESSED)
        for row, layer in enumerate(layers):
            _margin(axes, row, f"{percent(layer.sparsity)} zero")
        axes.set_xlim(0, 100)
        axes.set_xlabel("weights left, % of the layer")

    return draw("fig-layers", "Sparsity of every layer", _layers_said(layers, told), paint, height=FRAME + ROW * len(layers))


def reliability(number: int, model: Reliability, *, dense: bool) -> Markup:
    """Stated confidence against actual accuracy of one model; the diagonal is honest, below it is overconfident."""
    name, bins = model
    filled = [(100 * confidence, 100 * accuracy, samples) for confidence, accuracy, samples in bins if samples]
    most = max((samples for *_, samples in filled), default=1)

    def paint(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        colour = DENSE if dense else COMPRESSED
        across, up = [x for x, _, _ in filled], [y for _, y, _ in filled]
        areas = [14 + 150 * samples / most for *_, samples in filled]
        axes.plot(across, up, color=colour, linewidth=1.2)
        axes.scatter(across, up, s=areas, facecolor=PAPER if dense else colour, edgecolor=colour, zorder=3)
        axes.set(xlim=(-2, 104), ylim=(-2, 104), xlabel="stated confidence, %", ylabel="actual accuracy, %", aspect="equal")
        axes.text(98, 4, "overconfident", ha="right", color=MUTED, fontsize=10)
        axes.text(2, 96, "underconfident", va="top", color=MUTED, fontsize=10)
        axes.grid(visible=True)
        axes.spines[["left", "bottom"]].set_visible(False)

    told = "; ".join(f"{samples} samples at {x:.0f} % confidence were right {y:.0f} % of the time" for x, y, samples in filled)
    return draw(f"fig-reliability-{number}", f"Reliability of {name}", f"{told}.", paint, height=290, width=290)


def _layers_said(layers: Sequence[Layer], told: str) -> str:
    return " ".join([told, *(f"{layer.name} {percent(layer.sparsity)};" for layer in layers)])


def _columns(axes: Axes, layers: Sequence[Layer]) -> None:
    axes.bar(range(1, len(layers) + 1), [100 * (1 - layer.sparsity) for layer in layers], width=0.8, color=COMPRESSED)
    axes.grid(axis="y")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(ylim=(0, 100), xlabel="layer, in network order", ylabel="weights left, %")


def _name_rows(axes: Axes, names: Sequence[str], bold: int | None = None) -> None:
    axes.set_yticks(range(len(names)), [shorten(clean(name), 22) for name in names])
    if bold is not None:
        axes.get_yticklabels()[bold].set_fontweight("bold")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_ylim(len(names) - 0.4, -0.6)
    plain_axis(axes)


def _margin(axes: Axes, row: int, text: str) -> None:
    axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=10.5, color=INK)


def _short(finding: Finding | None) -> str:
    return "\u2013" if finding is None or missing(finding) else spoken(finding)


def _scale(finding: Finding | None) -> float:
    """Fractions are drawn as percent, other numbers as they are."""
    return PERCENT if finding is None or finding.unit == "fraction" else 1.0


def _percent(finding: Finding | None) -> str:
    return ", %" if _scale(finding) == PERCENT else ""


def _interval(axes: Axes, row: float, finding: Finding | None, *, dense: bool) -> None:
    if finding is None or finding.value is None or missing(finding):
        return
    colour, by = DENSE if dense else COMPRESSED, _scale(finding)
    if finding.low is not None and finding.high is not None:
        axes.plot([by * finding.low, by * finding.high], [row, row], color=colour, linewidth=2, solid_capstyle="round")
    face = PAPER if dense else colour
    axes.plot(by * finding.value, row, marker="o", markersize=6.5, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.6)


def _change(axes: Axes, row: int, change: Finding | None) -> None:
    if change is None or change.value is None or missing(change):
        axes.annotate("not enough data", (0, row), (6, 0), textcoords="offset points", va="center", color=MUTED, fontsize=10)
        return
    by = _scale(change)
    marker, colour = {"worse": ("v", WORSE), "better": ("^", BETTER)}.get(judge(change), ("o", DENSE))
    if change.low is not None and change.high is not None:
        axes.plot([by * change.low, by * change.high], [row, row], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot(by * change.value, row, marker=marker, markersize=7.5, color=colour)
