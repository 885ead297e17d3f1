"""The tables of `inspect` for people: the file in a few rows, its tensors (alike ones in one row), and what each form takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.pages.wording import clean, percent, size
from sparsify_cli.stages.inspect_look import Item, Look, shared_memory
from sparsify_cli.stages.opening import Opened
from sparsify_cli.stages.outcome import Table
from sparsify_cli.stages.tables import filled

ROWS = 60
"""Rows of the table of tensors unless all are asked for."""

LISTED = 5
"""Names in a row of the table of the file; JSON has all."""

KINDS: Mapping[str, str] = {
    "exported": "a torch.export program",
    "folder": "a Hugging Face folder",
    "onnx-model": "an ONNX model",
    "safetensors": "a safetensors file",
    "sharded": "safetensors shards with an index",
    "torch-legacy": "a torch checkpoint as saved before torch 1.6",
    "torch-tar": "a torch checkpoint as saved before torch 0.1.10 (tar)",
    "torch-zip": "a torch checkpoint",
    "torchscript": "a TorchScript archive",
}
"""Format -> what a person calls it."""

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""Tensors of a batch norm."""

UNSAID = frozenset({"not a matrix", "not of a floating type", "empty", "a vector"})
"""Reasons that a shape or type says itself."""


@dataclass(frozen=True)
class _Line:
    """A row: one tensor, several alike, or a batch norm."""

    label: str
    items: tuple[Item, ...]
    shape: str = ""

    @property
    def first(self) -> Item:
        return self.items[0]


def kind_of(look: Look) -> str:
    """The kind of file in words."""
    if look.opened is None:
        nested = look.subject is not None and look.subject.nest is not None
        return "networks embedded in one another, by sparsify" if nested else "a safetensors file of sparsify"
    kind = look.opened.layout.kind
    return KINDS.get(kind, kind)


def file_table(look: Look) -> Table:
    """What the file is and what is in it beside the tensors."""
    rows = [("kind", kind_of(look)), *_amounts(look)]
    if look.opened is not None:
        rows += _structure(look.opened)
    elif aliases := [f"{item.alias_of} = {name}" for name, item in look.items.items() if item.alias_of]:
        rows.append(("one memory", _list(aliases, "; ")))
    return Table("file", ("", ""), tuple((name, clean(said)) for name, said in rows if said))


def _amounts(look: Look) -> list[tuple[str, str]]:
    layout = look.layout
    files = layout.files if layout else ()
    disk = f"{size(layout.bytes)}{f' in {len(files)} files: {_list(files)}' if len(files) > 1 else ''}" if layout else ""
    by_type = bytes_by_type(look.items.values())
    counts = {dtype: sum(item.dtype == dtype for item in look.items.values()) for dtype in by_type}
    types = ", ".join(f"{dtype} {size(count)} in {counts[dtype]}" for dtype, count in by_type.items())
    return [("on disk", disk), ("tensors", types)]


def _structure(opened: Opened) -> list[tuple[str, str]]:
    layout = opened.layout
    return [
        ("weights under", ".".join(opened.wrapper)),
        ("prefix removed", opened.prefix),
        ("other tables", _list([f"{key} ({count} tensors)" for key, count in other_tables(opened).items()])),
        ("also holds", _list([f"{name} ({what})" for name, what in layout.others.items()])),
        ("odd tensors", _list([f"{name}: {why}" for name, why in layout.odd.items()], "; ")),
        ("in parts", _list([f"{fold.name} = {' x '.join(fold.parts[:2])} ({fold.kind})" for fold in opened.folds], "; ")),
        ("one memory", _list([" = ".join(group) for group in shared_memory(opened)], "; ")),
        ("files beside", _list(layout.companions)),
        ("names code", _list(layout.foreign)),
        ("header says", _list([f"{key}: {text}"[:60] for key, text in layout.metadata.items() if key != "format"], "; ")),
    ]


def other_tables(opened: Opened) -> dict[str, int]:
    """Tables of tensors outside the weights: dotted keys -> how many tensors."""
    keys = opened.wrapper
    return {".".join(key) or "the top": len(table) for key, table in opened.layout.tables.items() if key[: len(keys)] != keys and table}


def bytes_by_type(items: Iterable[Item]) -> dict[str, int]:
    """Type -> bytes of all tensors of it, each memory counted once; largest first."""
    found: dict[str, int] = {}
    for item in items:
        found[item.dtype] = found.get(item.dtype, 0) + (0 if item.alias_of else item.nbytes)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def tensor_table(look: Look, listener: Listener, *, whole: bool) -> Table:
    """One row a tensor and one for all of a batch norm; tensors that differ in numbers of their names only share one in large files."""
    lines = _lines(look.items)
    if len(lines) > ROWS and not whole:
        lines = _grouped(lines)
    shown = lines if whole else lines[:ROWS]
    if hidden := len(lines) - len(shown):
        listener.note(f"{hidden} more rows; --all shows every tensor, --format json everything about it")
    columns = ("tensor", "count", "shape", "type", "bytes", "zeros", "pattern", "dead", "prunable")
    return filled(Table("tensors", columns, tuple(_row(look, line) for line in shown)))


def _lines(items: Mapping[str, Item]) -> list[_Line]:
    """Every tensor, those of a batch norm together."""
    lines = []
    for name, item in items.items():
        norm, _, last = name.rpartition(".")
        if f"{norm}.running_mean" not in items or last not in NORM or item.verdict.matched:
            lines.append(_Line(name, (item,)))
        elif last == "running_mean":
            parts = tuple(items[part] for part in (f"{norm}.{end}" for end in NORM) if part in items)
            lines.append(_Line(f"{norm}.*", (item, *(p for p in parts if p is not item)), f"batch norm of {item.size}"))
    return lines


def _grouped(lines: Sequence[_Line]) -> list[_Line]:
    """Lines whose labels differ in numbers only, and which are alike in all else, as one."""
    groups: dict[tuple[object, ...], list[_Line]] = {}
    for line in lines:
        one = line.first
        key = (_starred(line.label), one.dtype, one.shape, one.verdict.matched, _reason(one), bool(line.shape))
        groups.setdefault(key, []).append(line)
    return [group[0] if len(group) == 1 else _merged(group) for group in groups.values()]


def _merged(group: Sequence[_Line]) -> _Line:
    """Several lines as one; a part of the name that is the same in all of them stays."""
    parts = zip(*(re.split(r"(\d+)", line.label) for line in group), strict=True)
    label = "".join(column[0] if len(set(column)) == 1 else "*" for column in parts)
    shape = group[0].shape
    return _Line(label, tuple(line.first for line in group) if not shape else tuple(i for line in group for i in line.items), shape)


def _starred(label: str) -> str:
    return re.sub(r"\d+", "*", label)


def _row(look: Look, line: _Line) -> tuple[str, ...]:
    item = line.first
    norms = [one for one in line.items if one.name.endswith("running_mean")] if line.shape else line.items
    count = str(len(norms)) if len(norms) > 1 else ""
    shape = line.shape or "x".join(map(str, item.shape)) or "scalar"
    stored = "" if look.values else size(sum(one.nbytes for one in line.items))
    found = ("", "", "") if line.shape else _found(look, line.items)
    return (clean(line.label), count, shape, short(item.dtype), stored, *found, "" if line.shape else _reason(item))


def _found(look: Look, items: Sequence[Item]) -> tuple[str, str, str]:
    """Share of zeros, patterns, and dead rows and columns."""
    if look.values is None:
        return "", "", ""
    seen = [look.values.seen[item.name] for item in items]
    zeros, total = sum(one.zeros for one in seen), sum(item.size for item in items)
    shapes = [one.shape for one in seen if one.shape]
    said = {" ".join(filter(None, (s.pattern, s.block))) or ("all zero" if s.zeros == s.size else "") for s in shapes}
    rows, columns = sum(s.dead_rows for s in shapes), sum(s.dead_columns for s in shapes)
    dead = ", ".join(filter(None, (f"{rows} out" if rows else "", f"{columns} in" if columns else "")))
    return percent(zeros / total) if zeros else "", "varies" if len(said) > 1 else "".join(said), dead


def _reason(item: Item) -> str:
    """`yes`, or why not where that does not show from shape and type."""
    if item.verdict.matched:
        return "yes"
    why = item.verdict.why
    if why == "named like no weight":
        return "no: its name"
    return "" if why in UNSAID else "no: tied" if why.startswith("tied") else f"no: {why}"


def short(dtype: str) -> str:
    """`f32`, `bf16`, `i64`: types as short as they are read."""
    return dtype.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i").replace("complex", "c")


def forms_table(look: Look) -> Table:
    """What all tensors take in each storage form; no rows where none makes them smaller."""
    forms = look.values.forms(look.items) if look.values else {}
    words = {"dense": "every number", "bitmask": "a bit a position", "gaps8": "a byte a value", "gaps16": "two bytes a value"}
    words["packed"] = "the smallest form of each tensor"
    shown = forms if forms and forms["packed"] < forms["dense"] else {}
    rows = tuple((form, size(count), percent(count / forms["dense"]), words[form]) for form, count in shown.items())
    return Table("what storage forms take (a tensor that would grow stays dense)", ("form", "bytes", "of dense", "says positions by"), rows)


def _list(words: Sequence[str], between: str = ", ") -> str:
    rest = len(words) - LISTED
    return between.join(words[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
