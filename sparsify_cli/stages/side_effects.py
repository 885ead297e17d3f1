"""What forgetting did to every class and group: accuracy on test samples before and after, the largest changes first."""

from __future__ import annotations

from collections.abc import Iterator

from sparsify_cli.stages.outcome import Table
from sparsify_cli.stages.tables import interval, said
from sparsify_cli.values.report import Finding, Report

MOST = 10
"""Rows of a table."""
SORTS = {"class:": "class", "attribute:": "attribute", "group:": "group"}
"""How scopes begin -> what they are called."""


def side_effect_tables(report: Report, at: str = "") -> tuple[Table, ...]:
    """A table for classes, one for attributes and one for groups, as far as there are any.

    Args:
        report: with accuracies before (`dense`), after (`compressed`) and what changed, by scope.
        at: of which level, for the title.
    """
    found = {called: _largest(report, begins) for begins, called in SORTS.items()}
    return tuple(_table(report, called, changes, at) for called, changes in found.items() if changes)


def _largest(report: Report, begins: str) -> list[Finding]:
    """Known changes of accuracy of one sort of scope, largest first; those that changed as much in the order of the report."""
    known = [f for f in report if (f.name, f.of) == ("accuracy", "change") and f.scope.startswith(begins) and f.value is not None]
    return sorted(known, key=lambda f: -abs(f.value or 0.0))


def _table(report: Report, called: str, changes: list[Finding], at: str) -> Table:
    shown = f"the {MOST} largest changes of {len(changes)}" if len(changes) > MOST else "largest change first"
    rows = tuple(tuple(_row(report, one, called)) for one in changes[:MOST])
    return Table(f"accuracy by {called}{at}, test samples: {shown}", (called, "n", "before", "after", "change", "95 %"), rows)


def _row(report: Report, change: Finding, called: str) -> Iterator[str]:
    old, new = (report.get("accuracy", of=of, scope=change.scope) for of in ("dense", "compressed"))
    yield change.scope.removeprefix(f"{called}:")
    yield from (f"{change.n:,}", said(old), said(new), said(change, change=True), interval(change))
