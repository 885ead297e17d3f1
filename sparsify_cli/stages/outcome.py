"""What a stage hands to the command line: a headline, findings, tables, the artifact. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsify_cli.errors import SparsifyError
from sparsify_cli.values.report import Report


@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    Args:
        title: one line.
        columns: headings.
        rows: cells, already formatted.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """The result of a verb.

    Args:
        verb: which one.
        headline: the result in one plain sentence.
        report: every number.
        artifact: the folder written, or None.
        tables: for people.
        notes: warnings and explanations, one sentence each.
        hints: commands a person may want to type next.
        files: files written, the main one first.
        facts: further plain values for JSON.
        weights: the file or folder that the original's loader takes, when a network was written.
        failure: a gate that did not hold, raised after everything was shown and written.
    """

    verb: str
    headline: str
    report: Report = field(default_factory=Report)
    artifact: Path | None = None
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    failure: SparsifyError | None = None
