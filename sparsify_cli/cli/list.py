"""`sparsify list`: what is on the shelves; nothing is imported for it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sparsify_cli.cli import console
from sparsify_cli.cli.console import Format
from sparsify_cli.cli.options import FormatFlag
from sparsify_cli.errors import UnknownName
from sparsify_cli.recipes.allocation import ALLOCATION_SUMMARIES
from sparsify_cli.shelf import SHELVES, Shelf
from sparsify_cli.stages.outcome import Table

PATTERNS = {
    "unstructured": "Every weight competes with every other.",
    "N:M": "Keep N of every M consecutive weights along the input channels, e.g. 2:4.",
    "block:RxC": "Blocks of R outputs x C inputs stay or go together, e.g. block:4x1.",
}

Which = Annotated[str | None, typer.Argument(help="criteria, regimes, ...; all when left out.", show_default=False)]


def list_(which: Which = None, how: FormatFlag = Format.HUMAN) -> None:
    """List criteria, regimes, objectives, exporters and everything else there is a choice of."""
    known = {**{package: shelf_summaries(package) for package in SHELVES}, "patterns": PATTERNS, "allocations": dict(ALLOCATION_SUMMARIES)}
    if which is not None and which not in known:
        raise UnknownName("shelf", which, known)
    chosen = {which: known[which]} if which else known
    if how is Format.JSON:
        console.say(json.dumps(chosen, indent=1))
        return
    for name, summaries in chosen.items():
        console.table(Table(name, ("name", "what it does"), tuple(summaries.items())))
        console.say("")


def shelf_summaries(package: str) -> dict[str, str]:
    """Name -> one line, for every strategy on a shelf."""
    shelf = Shelf(package)
    return {name: shelf.summary(name) for name in shelf.names()}
