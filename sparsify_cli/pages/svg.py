"""A canvas for figures: matplotlib without global state, finished as inline SVG that follows the page's colours.

Artists are drawn in marker colours, which are replaced by CSS variables: one figure serves light, dark and print. Text
stays text, in the reader's font. The same figure gives the same bytes: fixed hash salt, no dates, ids of its own.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sparsify_cli.pages.wording import clean

INK, MUTED, GRID, COMPRESSED, DENSE, WORSE, BETTER, PAPER = (f"#01010{i}" for i in range(1, 9))
NAMES = ("ink", "muted", "line", "accent", "dense", "worse", "better", "paper")
VARIABLES = dict(zip((INK, MUTED, GRID, COMPRESSED, DENSE, WORSE, BETTER, PAPER), NAMES, strict=True))
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sparsify",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
}
WIDTH = 440
POINTS = 72


def draw(name: str, title: str, description: str, paint: Callable[[Axes], None], *, height: float, width: float = WIDTH) -> Markup:
    """One panel as inline SVG.

    Args:
        name: unique on the page; becomes part of every id.
        title, description: what a screen reader says.
        paint: draws on the axes.
        height, width: of the picture in CSS pixels at full size.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(width / POINTS, height / POINTS), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]
        paint(figure.add_subplot())
        return _finish(_raw(figure), name, title, description, width)


def _raw(figure: Figure) -> str:
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    return buffer.getvalue()


def _finish(raw: str, name: str, title: str, description: str, width: float) -> Markup:
    body = raw[raw.index(">", raw.index("<svg")) + 1 :]
    box = re.search(r'viewBox="[^"]*"', raw)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\n?", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*", _font, body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    head = f'<svg class="figure" role="img" {box.group() if box else ""} style="max-width:{width * 1.2:.0f}px" '
    named = f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(clean(title))}</title>'
    return Markup(f'{head}{named}<desc id="{name}-desc">{escape(clean(description))}</desc>{body.strip()}')  # noqa: S704


def _font(match: re.Match[str]) -> str:
    bold = "font-weight: 700; " if re.search(r"\b(bold|700)\b", match[1]) else ""
    return f"{bold}font-size: {match[2]}px"


def plain_axis(axes: Axes, *, left: bool = False) -> None:
    """Thin vertical grid lines and no frame: the numbers carry the picture."""
    axes.grid(axis="x")
    axes.spines["left"].set_visible(left)
    axes.spines["bottom"].set_visible(False)
