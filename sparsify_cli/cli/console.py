"""The one sink: results to stdout (human, json or quiet), progress, notes and errors to stderr."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from typing import Any

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.listener import Progress as Now
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.outcome import Table as Rows
from sparsify_cli.values.artifact import CERTIFICATE

NARROWEST = 20
"""Characters that the column which wraps needs; with fewer, every column wraps."""


KEPT = "\n\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"
"""Characters that are not printable and do no harm."""


class Format(StrEnum):
    """How results are printed."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


def _console(*, stderr: bool) -> Console:
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)


def show(outcome: Outcome, how: Format) -> None:
    """Print a verb's outcome: people get sentences and tables, programs one JSON object, scripts one path."""
    if how is Format.JSON:
        _console(stderr=False).print(json.dumps(as_json(outcome), indent=1), markup=False)
    elif how is Format.QUIET:
        _quiet(outcome)
    else:
        _human(outcome)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain JSON values."""
    return {
        **outcome.report.to_json(),
        "schema": "sparsify/outcome/1",
        "verb": outcome.verb,
        "headline": outcome.headline,
        "artifact": str(outcome.artifact) if outcome.artifact else None,
        "weights": str(outcome.weights) if outcome.weights else None,
        "files": [str(path) for path in outcome.files],
        "notes": list(outcome.notes),
        "facts": {**outcome.report.facts, **outcome.facts},
    }


def error(text: str) -> None:
    """One sentence to stderr, on one line whatever libraries put into it."""
    _console(stderr=True).print(f"[red]error:[/red] {escape(_clean(' '.join(text.split())))}")


def say(text: str) -> None:
    """A line of results, or several, to stdout."""
    _console(stderr=False).print(_clean(text), markup=False)


def note(text: str) -> None:
    """A line to stderr, dimmed."""
    _console(stderr=True).print(f"[dim]{escape(_clean(text))}[/dim]")


def _clean(text: str) -> str:
    """The text with a visible sign for every control character but the end of a line: names in files are other people's."""
    return "".join(c if c.isprintable() or c in KEPT else "\N{REPLACEMENT CHARACTER}" for c in text)


def table(rows: Rows) -> None:
    """A table to stdout; numbers to the right, the first column (what a row is about) to the left.

    Where the screen (80 columns, where it is none) is too narrow the widest column wraps first.
    """
    screen = Console(highlight=False, emoji=False)
    if screen.is_terminal:
        screen.print(_grid(rows, screen.width))
        return
    with screen.capture() as captured:
        screen.print(_grid(rows, screen.width))
    for line in captured.get().rstrip("\n").split("\n"):  # rich fills every line up with blanks
        say(line.rstrip())


def _grid(rows: Rows, width: int) -> Table:
    rows = replace(rows, title=_clean(rows.title), rows=tuple(tuple(map(_clean, cells)) for cells in rows.rows))
    grid = Table(title=Text(rows.title), title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    needed = [max(map(len, cells)) for cells in zip(rows.columns, *rows.rows, strict=True)]
    widest = needed.index(max(needed))
    firm = sum(needed) - max(needed) + len(needed) + NARROWEST <= width
    for index, column in enumerate(rows.columns):
        numeric = index > 0 and bool(rows.rows) and all(_is_number(row[index]) for row in rows.rows)
        how: JustifyMethod = "right" if numeric else "left"
        grid.add_column(Text(column), justify=how, overflow="fold", no_wrap=firm and index != widest)
    for row in rows.rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _is_number(cell: str) -> bool:
    return cell[:1] in "-+−–—" or cell[:1].isdigit() or not cell


def _quiet(outcome: Outcome) -> None:
    first = next((file for file in outcome.files if file.name != CERTIFICATE), outcome.artifact)  # the next verb opens the artifact
    if first is not None:
        _console(stderr=False).file.write(f"{first}\n")  # as it is: a program opens it


def _human(outcome: Outcome) -> None:
    for text in outcome.notes:
        note(f"note: {text}")
    say(outcome.headline)
    for rows in outcome.tables:
        say("")
        table(rows)
    if outcome.artifact or outcome.files:
        say("")
    if outcome.artifact:
        say(f"written: {outcome.artifact}")
    if outcome.weights:
        say(f"weights: {outcome.weights}")
    for path in outcome.files:
        say(f"file: {path}")
    for hint in outcome.hints:
        note(f"next: {hint}")


class _Measures(ProgressColumn):
    """Loss, accuracy and sparsity of a training run."""

    def render(self, task: Any) -> Text:
        """The running figures in a few words."""
        now: Now = task.fields["now"]
        words = [f"loss {now.loss:.3f}" if now.loss is not None else ""]
        words += [f"acc {now.accuracy:.1%}" if now.accuracy is not None else "", f"sparse {now.sparsity:.1%}"]
        return Text(" ".join(filter(None, words)), style="dim")


class Watcher(Listener):
    """Shows notes and a progress bar on stderr while a stage works."""

    def __init__(self) -> None:
        """Nothing is shown before the first progress."""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def note(self, text: str) -> None:
        """Print a note."""
        note(text)

    def progress(self, now: Now) -> None:
        """Move the bar, starting it when needed."""
        if self._bar is None or self._task is None:
            figures = (DownloadColumn(), TransferSpeedColumn()) if now.unit == "B" else (MofNCompleteColumn(), _Measures())
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=16), *figures, TimeRemainingColumn(),
                console=(sink := _console(stderr=True)), transient=True, disable=not sink.is_terminal,
            )  # fmt: skip
            self._task = self._bar.add_task(escape(_clean(now.label)), total=now.total, now=now)
            self._bar.start()
        self._bar.update(self._task, completed=now.step, total=now.total, description=escape(_clean(now.label)), now=now)

    def done(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task = None, None
