"""Bias and gaps between groups: the numbers that speak of who is treated how, before and after, in one table.

All of them stand among every number; here are those about everything, whole group columns and pairs of columns, and of the many about
one attribute or one pair of an answer and an identity those that changed most.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_cli.pages.glossary import label, meaning
from sparsify_cli.pages.tables import Cell, cell
from sparsify_cli.pages.view import View
from sparsify_cli.pages.wording import judge, said
from sparsify_cli.values.report import Finding

NAMES = (
    "threshold_bias", "interdependence", "bias_amplification", "cooccurrence", "worst_group",
    "fairness_gaps_demographic_parity", "fairness_gaps_equal_opportunity", "fairness_gaps_equalised_odds",
)  # fmt: skip
MOST = 6
"""Rows of one name about attributes or pairs."""


@dataclass(frozen=True)
class Row:
    """One number.

    Args:
        label, meaning: of its name; said in the first row of a name only.
        where: which part of the data it is about.
        cells: dense, compressed, change.
        reading: of the change.
        note: how many it was measured on, and what else is to be known.
    """

    label: str
    meaning: str
    where: str
    cells: tuple[Cell, ...]
    reading: str
    note: str


def rows(view: View) -> list[Row]:
    """Those that were measured, by name."""
    found, of = [], "attributes" if view.scopes("attribute") else "answers"
    for name in NAMES:
        for i, finding in enumerate(_chosen(view, name)):
            change = view.about.report.get(name, of="change", scope=finding.scope)
            cells = (cell(view.dense(name, finding.scope)), cell(finding), cell(change, judge(change)))
            heads = (label(name), meaning(name, finding.definition)) if i == 0 else ("", "")
            found.append(Row(*heads, where(finding.scope, of), cells, said(change), finding.note))
    return found


def where(scope: str, of: str = "answers") -> str:
    """`group:race&sex` -> `race and sex`; `class:>50K@sex=Male` -> `>50K, sex = Male`; `all` -> `all answers`."""
    if scope == "all":
        return f"all {of}"
    kind, _, name = scope.partition(":")
    return name.replace("&", " and ") if kind == "group" else name.replace("@", ", ", 1).replace("=", " = ", 1)


def _chosen(view: View, name: str) -> list[Finding]:
    """Findings about everything and whole columns, then the others that changed most."""
    if view.index == 0:
        return []
    here = [f for f in view.about.report if f.name == name and f.of == "compressed" and f.value is not None]
    whole = [f for f in here if f.scope == "all" or (f.scope.startswith("group:") and "=" not in f.scope)]
    others = [f for f in here if f.scope.startswith(("attribute:", "class:"))]
    return [*whole, *sorted(others, key=lambda f: -_moved(view, f))[:MOST]]


def _moved(view: View, finding: Finding) -> float:
    change = view.about.report.get(finding.name, of="change", scope=finding.scope)
    return abs(change.value) if change is not None and change.value is not None else 0.0
