"""The findings of every stage as comma-separated values: one finding a row, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from sparsify_cli.pages.view import View

COLUMNS = ("stage", "name", "of", "scope", "value", "unit", "n", "low", "high", "better", "note", "definition", "source")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def render_csv(view: View) -> str:
    """A header, then a row for each finding of each stage; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(view))
    return text.getvalue()


def _rows(view: View) -> Iterator[list[Any]]:
    for stage in view.stages:
        for finding in stage.report:
            yield [_plain(stage.name), *(_plain(getattr(finding, name)) for name in COLUMNS[1:])]


def _plain(value: Any) -> Any:
    """Numbers as they are, nothing for none, and texts that no spreadsheet runs."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
