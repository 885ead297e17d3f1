"""How a network was trained: accuracy and sparsity along the way, how much the masks changed, and what was left of each layer."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sparsify_cli.pages.svg import COMPRESSED, DENSE, GRID, MUTED, draw
from sparsify_cli.pages.view import Curve
from sparsify_cli.pages.wording import percent

HEIGHT = 220


Picture = tuple[str, Markup]
"""A caption and what it stands over."""


def drawn(curves: Sequence[Curve]) -> list[tuple[str, list[Picture]]]:
    """The pictures of each training, by its name."""
    return [(curve.name, _pictures(curve, i)) for i, curve in enumerate(curves) if curve.epochs]


def _pictures(curve: Curve, number: int) -> list[Picture]:
    found = [("Accuracy and sparsity", _climb(curve, number))]
    if len(curve.changes) > 1 and any(share for _, share in curve.changes):
        found.append(("Changes of the masks", _churn(curve, number)))
    if len({step for step, _ in curve.densities}) > 1:
        found.append(("Density of layers", _densities(curve, number)))
    if len(curve.dead) > 1 and any(count for _, count in curve.dead):
        found.append(("Dead channels", _dead(curve, number)))
    rates = [epoch.rate for epoch in curve.epochs if epoch.rate is not None]
    if len(rates) == len(curve.epochs) and curve.epochs[-1].rewinds:
        found.append(("Learning rate", _rate(curve, rates, number)))
    return found


def _climb(curve: Curve, number: int) -> Markup:
    """Validation accuracy as a line with dots, sparsity as steps behind it."""
    steps = [epoch.step for epoch in curve.epochs]
    accuracy, sparsity = ([100 * getattr(epoch, name) for epoch in curve.epochs] for name in ("accuracy", "sparsity"))

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        axes.step(steps, sparsity, where="pre", color=DENSE, linestyle=(0, (4, 3)), linewidth=1.4)
        axes.plot(steps, accuracy, color=COMPRESSED, marker="o", markersize=3.5, linewidth=1.6)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if curve.measure == "accuracy":
            axes.set_ylim(-2, 102)
        axes.set_xlabel(f"optimizer steps:  \u25cf {curve.measure}, %   - - sparsity, %")
        axes.tick_params(axis="y", colors=MUTED)

    first, last = curve.epochs[0], curve.epochs[-1]
    told = (
        f"{curve.measure.capitalize()} on validation data from {percent(first.accuracy)} after step {first.step} to "
        f"{percent(last.accuracy)} after step {last.step}; sparsity at the end {percent(last.sparsity)}."
    )
    return draw(f"fig-training-{number}", f"Training of {curve.name}", told, paint, height=HEIGHT)


def _rate(curve: Curve, rates: Sequence[float], number: int) -> Markup:
    """The learning rate at the end of each epoch, where it was put back."""
    steps = [epoch.step for epoch in curve.epochs]

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        axes.plot(steps, rates, color=COMPRESSED, marker="o", markersize=3.5, linewidth=1.6)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylim(0, 1.1 * max(rates))
        axes.set_xlabel("optimizer steps:  learning rate at the end of each epoch")
        axes.tick_params(axis="y", colors=MUTED)

    told = f"The learning rate falls and is put back; at the end of epochs it lies between {min(rates):.2g} and {max(rates):.2g}."
    return draw(f"fig-rate-{number}", f"Learning rate of {curve.name}", told, paint, height=HEIGHT)


def _churn(curve: Curve, number: int) -> Markup:
    """Share of kept weights that were not kept before, at each change of the masks."""
    steps, shares = zip(*((step, 100 * share) for step, share in curve.changes), strict=True)

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        axes.vlines(steps, 0, shares, color=COMPRESSED, linewidth=1.4)
        axes.plot(steps, shares, color=COMPRESSED, marker="o", markersize=3.5, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylim(0, max(1.0, 1.15 * max(shares)))
        axes.set_xlabel("optimizer steps:  kept weights that are new, %")
        axes.tick_params(axis="y", colors=MUTED)

    bits = [f"{bits:,.0f}" for _, bits in curve.differing]
    sad = f" {bits[0]} bits of the masks differed then (SAD), {bits[-1]} in the end." if bits else ""
    told = (
        f"{len(shares)} changes of the masks; {shares[0]:.2g} % of the kept weights were new at the first, {shares[-1]:.2g} % at the last."
    )
    return draw(f"fig-churn-{number}", f"Changes of the masks of {curve.name}", f"{told}{sad}", paint, height=HEIGHT)


def _densities(curve: Curve, number: int) -> Markup:
    """What each layer keeps, as steps; the one that ends with least stands out."""
    end = curve.epochs[-1].step
    lines = {name: _line(curve, name, end) for name in sorted({name for _, found in curve.densities for name in found})}
    least = min(lines, key=lambda name: lines[name][-1][1])

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        for name, line in lines.items():
            steps, shares = zip(*line, strict=True)
            colour, width = (COMPRESSED, 1.8) if name == least else (DENSE, 0.8)
            axes.step(steps, [100 * share for share in shares], where="post", color=colour, linewidth=width)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylim(-2, 102)
        axes.set_xlabel(f"optimizer steps:  weights kept in each of {len(lines)} layers, %")
        axes.tick_params(axis="y", colors=MUTED)

    told = f"Of {len(lines)} layers {least} ends with the least of its weights, {percent(lines[least][-1][1])}; it is drawn bold."
    return draw(f"fig-densities-{number}", f"Density of the layers of {curve.name}", told, paint, height=HEIGHT)


def _line(curve: Curve, name: str, end: int) -> list[tuple[int, float]]:
    """(Step, density) of a layer, to the end of the training."""
    found = [(step, shares[name]) for step, shares in curve.densities if name in shares]
    return [*found, (max(end, found[-1][0]), found[-1][1])]


def _dead(curve: Curve, number: int) -> Markup:
    """Output channels without a weight, as steps."""
    steps, counts = zip(*curve.dead, strict=True)

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        axes.step(steps, counts, where="post", color=COMPRESSED, linewidth=1.6)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylim(0, 1.1 * max(counts))
        axes.set_xlabel("optimizer steps:  output channels of which no weight is kept")
        axes.tick_params(axis="y", colors=MUTED)

    told = f"{counts[0]} output channels kept no weight after the first change of the masks, {counts[-1]} after the last."
    return draw(f"fig-dead-{number}", f"Dead channels of {curve.name}", told, paint, height=HEIGHT)
