"""What is worth its bytes, and what its time: networks that no other beats in a cost and a gain (Pareto).

    costs   packed bytes; time, where a tenth more or less is called the same
    gains   what says how good networks are (accuracy; minus perplexity or error); how the class or group fares that fares worst

A network beats another when its cost is at most as high and its gain at least as high, and one of them better.

Source: Pareto dominance; slack and choice of costs and gains are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from sparsify_cli.pages.svg import COMPRESSED, GRID, MUTED, draw

SLACK = 0.1
"""Times that differ by less, as a fraction, are the same: clocks are not better."""
HEIGHT, WIDTH = 220, 300
LEAST = 3
"""Networks that a picture needs."""


@dataclass(frozen=True)
class Offer:
    """What a network costs and gives; None where it was not measured.

    Args:
        zeros: of its prunable weights, fraction.
        bytes, time: costs.
        good, worst: gains: more is better.
    """

    zeros: float
    bytes: float | None
    time: float | None
    good: float | None
    worst: float | None


def unbeaten(offers: Sequence[Offer], about: str) -> list[tuple[str, ...]]:
    """For each network the gains and costs in which no other beats it, in words.

    Args:
        offers: of all networks.
        about: what says how good they are.
    """
    gains = {about: [o.good for o in offers], f"{about} of the worst group": [o.worst for o in offers]}
    costs = {"bytes": ([o.bytes for o in offers], 0.0), "time": ([o.time for o in offers], SLACK)}
    best = {
        (gain, cost): frontier(list(zip(spent, got, strict=True)), slack=slack)
        for gain, got in gains.items()
        for cost, (spent, slack) in costs.items()
    }
    there = [{gain: [cost for cost in costs if at in best[gain, cost]] for gain in gains} for at in range(len(offers))]
    return [tuple(f"{gain} for its {' and '.join(spent)}" for gain, spent in one.items() if spent) for one in there]


def frontier(points: Sequence[tuple[float | None, float | None]], *, slack: float = 0.0) -> list[int]:
    """Positions of (cost, gain) that no other beats.

    Args:
        points: costs >= 0 and gains.
        slack: costs that differ by less, as a fraction of the larger, are the same.
    """
    known = [(at, cost, gain) for at, (cost, gain) in enumerate(points) if cost is not None and gain is not None]

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        same = abs(a[0] - b[0]) <= slack * max(a[0], b[0])
        return a[1] >= b[1] and (a[1] > b[1] if same else a[0] < b[0])

    return [at for at, cost, gain in known if not any(beats((c, g), (cost, gain)) for _, c, g in known)]


def figures(offers: Sequence[Offer], about: str, sign: float = 1.0) -> list[tuple[str, Markup]]:
    """Gains against packed bytes, one picture each, with the frontier as a line.

    Args:
        offers: of all networks.
        about: what says how good they are, with its unit.
        sign: -1 where less of that is better; gains are shown as they are then.
    """
    name = about.partition(", ")[0]
    gains = {name: [o.good for o in offers], f"{name} of the worst class or group": [o.worst for o in offers]}
    drawn = [(f"{words} against bytes", _figure(offers, gain, words, about, sign)) for words, gain in gains.items()]
    return [(title, picture) for title, picture in drawn if picture is not None]


def _figure(offers: Sequence[Offer], gains: Sequence[float | None], words: str, axis: str, sign: float) -> Markup | None:
    known = [(o.bytes, gain, o.zeros) for o, gain in zip(offers, gains, strict=True) if o.bytes is not None and gain is not None]
    if len(known) < LEAST:
        return None
    times = 100 if axis.endswith("%") else sign
    spots = [(size / 1000, times * gain) for size, gain, _ in known]
    best = sorted(spots[at] for at in frontier([(size, gain) for size, gain, _ in known]))

    def paint(axes: Axes) -> None:
        axes.grid(color=GRID)
        axes.plot(*zip(*best, strict=True), color=COMPRESSED, linewidth=1.4)
        axes.plot(*zip(*spots, strict=True), "o", color=COMPRESSED, markersize=4)
        for spot, (_, _, zeros) in zip(spots, known, strict=True):
            axes.annotate(f"{100 * zeros:.0f}", spot, xytext=(3, -9), textcoords="offset points", color=MUTED, fontsize=9)
        axes.set(xlabel="packed kB; beside a point its zeros, %", ylabel=axis)

    told = "; ".join(f"{100 * zeros:.0f} % zeros: {x:.1f} kB, {y:.3g}" for (x, y), (_, _, zeros) in zip(spots, known, strict=True))
    name = "fig-bytes-" + ("worst" if "worst" in words else "good")
    return draw(name, f"{words.capitalize()} against packed bytes", f"{told}.", paint, height=HEIGHT, width=WIDTH)
