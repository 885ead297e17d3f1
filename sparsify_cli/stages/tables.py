"""Tables for people: findings as rows, numbers rounded sensibly with their units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from sparsify_cli.pages.view import QUALITIES
from sparsify_cli.pages.wording import amount
from sparsify_cli.stages.outcome import Table
from sparsify_cli.values.report import Finding, Report

UNMEASURED = "not measured"

ELSEWHERE = ("perplexity", "token_agreement", "rmse", "mae", "r2", "output_shift")
"""Numbers about texts and numbers, where tables show accuracy of classes."""


def said(finding: Finding | None, *, change: bool = False) -> str:
    """A finding's value in words, or why there is none."""
    if finding is None:
        return UNMEASURED
    return finding.note or "not enough data" if finding.value is None else amount(finding.value, finding.unit, change=change)


def interval(finding: Finding | None) -> str:
    """A finding's 95 % interval, or nothing."""
    if finding is None or finding.low is None or finding.high is None:
        return ""
    change = finding.of == "change"
    return f"{amount(finding.low, finding.unit, change=change)} to {amount(finding.high, finding.unit, change=change)}"


def quality(report: Report, *, of: Literal["compressed", "dense"] = "compressed", scope: str = "all") -> Finding | None:
    """The number that says how good a network is: accuracy; of texts perplexity; of numbers the root mean square error."""
    return next((found for name in QUALITIES if (found := report.get(name, of=of, scope=scope))), None)


def called(finding: Finding | None) -> str:
    """What it is called in a sentence."""
    return QUALITIES.get(finding.name, finding.name) if finding else "accuracy"


def before_after(title: str, report: Report, names: Sequence[str]) -> Table:
    """Rows of a number before (dense), after (compressed) and what changed."""
    rows = [(name, report.get(name, of="dense"), report.get(name)) for name in names]
    cells = [(name.replace("_", " "), said(old), said(new)) for name, old, new in rows if old is not None or new is not None]
    return Table(title, ("", "before", "after"), tuple(cells))


def listing(title: str, findings: Iterable[Finding]) -> Table:
    """Rows of every finding: name, scope, value, interval, n."""
    rows = tuple((f.name.replace("_", " "), _scope(f), said(f), interval(f), f"{f.n:,}" if f.n else "") for f in findings)
    return filled(Table(title, ("number", "of", "value", "95 % interval", "n"), rows))


def filled(table: Table) -> Table:
    """The table without columns that are empty in every row; the first one stays."""
    kept = [i for i in range(len(table.columns)) if not i or any(row[i] for row in table.rows)]
    return Table(table.title, tuple(table.columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in table.rows))


def _scope(finding: Finding) -> str:
    scope = "" if finding.scope == "all" else finding.scope
    return " ".join(filter(None, (scope, "" if finding.of == "compressed" else finding.of)))
