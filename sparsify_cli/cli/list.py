"""`sparsify list`: what is on the shelves, with its options; nothing is imported for it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Annotated

import typer

from sparsify_cli.cli import console
from sparsify_cli.cli.console import Format
from sparsify_cli.cli.options import FormatFlag
from sparsify_cli.errors import UnknownName
from sparsify_cli.recipes.allocation import ALLOCATION_SUMMARIES
from sparsify_cli.shelf import ROOT, SHELVES, Shelf
from sparsify_cli.stages.outcome import Table

PATTERNS = {
    "unstructured": "Every weight competes with every other.",
    "N:M": "Keep N of every M consecutive weights along the input channels, e.g. 2:4.",
    "N:MT": "The same along the outputs too, so that the transposed matrix is N:M as well, e.g. 2:4T.",
    "block:RxC": "Blocks of R outputs x C inputs stay or go together, e.g. block:4x1.",
}

Which = Annotated[str | None, typer.Argument(help="criteria, regimes, ...; all when left out.", show_default=False)]


def list_(which: Which = None, how: FormatFlag = Format.HUMAN) -> None:
    """List criteria, regimes, objectives, exporters and everything else there is a choice of."""
    known = {**{package: shelf_summaries(package) for package in SHELVES}, "patterns": PATTERNS, "allocations": dict(ALLOCATION_SUMMARIES)}
    if which is not None and which not in known:
        raise UnknownName("shelf", which, known)
    chosen = {which: known[which]} if which else known
    if how is Format.HUMAN:
        for name, summaries in chosen.items():
            console.table(_table(name, summaries))
            console.say("")
        return
    names = "\n".join(name for summaries in chosen.values() for name in summaries)
    console.say(names if how is Format.QUIET else json.dumps(chosen, indent=1))


def _table(package: str, summaries: dict[str, str]) -> Table:
    """Names, what they do, and their options with defaults where there are any."""
    rows = []
    for name, summary in summaries.items():
        options = ", ".join(f"{key}={value}" if value else key for key, value in strategy_options(package, name).items())
        rows += [(name, summary), *([("", f"options: {options}")] if options else [])]
    return Table(package, ("name", "what it does"), tuple(rows))


def shelf_summaries(package: str) -> dict[str, str]:
    """Name -> one line, for every strategy on a shelf."""
    shelf = Shelf(package)
    return {name: shelf.summary(name) for name in shelf.names()}


def strategy_options(package: str, name: str) -> dict[str, str]:
    """Options of a strategy and their defaults as they are written, empty for those without; read from its file, not imported."""
    path = ROOT / package / f"{name.replace('-', '_')}.py"
    if package not in SHELVES or not path.is_file():
        return {}
    tree = _parsed(path)
    bases = {SHELVES[package].capitalize(), f"Layerwise{SHELVES[package].capitalize()}"}
    inherited = {base: found for base, found in _imported(tree).items() if base not in bases}
    own = [part for part in tree.body if isinstance(part, ast.ClassDef)]
    named = [(part, {ast.unparse(base) for base in part.bases}) for part in own]
    above = [inherited[base] for _, theirs in named for base in theirs & set(inherited)]
    classes = [*above, *(part for part, theirs in named if theirs & {*bases, *inherited})]
    fields = (field for part in classes for field in part.body if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name))
    return {ast.unparse(f.target): _default(f.value) for f in fields if "ClassVar" not in ast.unparse(f.annotation)}


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:  # said in its summary
        return ast.Module([], [])


def _imported(tree: ast.Module) -> dict[str, ast.ClassDef]:
    """Classes that a file takes from `training/`, by name: strategies there share their options."""
    found: dict[str, ast.ClassDef] = {}
    for line in tree.body:
        if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("sparsify_cli.training."):
            there = _parsed(ROOT / "training" / f"{(line.module or '').rpartition('.')[2]}.py")
            wanted = {alias.name for alias in line.names}
            found |= {part.name: part for part in there.body if isinstance(part, ast.ClassDef) and part.name in wanted}
    return found


def _default(value: ast.expr | None) -> str:
    """A default as a person would write it: `0run` for Duration.parse("0run"), `0.5` for 0.5, names without quotes."""
    match value:
        case None:
            return ""
        case ast.Call(args=[ast.Constant(value=str(text)), *_]) | ast.Constant(value=str(text)):
            return text
        case ast.Call(keywords=[ast.keyword(arg="default", value=inner), *_]):
            return _default(inner)
    return ast.unparse(value)
