"""How a network was trained: accuracy and sparsity along the way, and how much the masks changed."""

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

    told = (
        f"{len(shares)} changes of the masks; {shares[0]:.2g} % of the kept weights were new at the first, {shares[-1]:.2g} % at the last."
    )
    return draw(f"fig-churn-{number}", f"Changes of the masks of {curve.name}", told, paint, height=HEIGHT)
