"""Two checkpoints beside each other: which tensors are the same, what differs, and whether the files are built alike.

Without values only names, shapes and types are compared; with them tensors are compared bit for bit, slice by slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.pages.wording import clean, significant, size
from sparsify_cli.recipes.verbs import InspectRecipe
from sparsify_cli.stages.inspect_facts import facts_of
from sparsify_cli.stages.inspect_look import Item, Look, shared_memory
from sparsify_cli.stages.inspect_tables import ROWS, bytes_by_type, kind_of, other_tables, short
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.tables import filled
from sparsify_cli.values.report import Report

if TYPE_CHECKING:
    from sparsify_cli.stages.inspect_difference import Difference

SAME, UNREAD = "same", "same shape and type"
ORDER = (SAME, UNREAD, "values differ", "dtype differs", "shape differs", "only in A", "only in B")
"""What can be said about a tensor of two files."""


@dataclass(frozen=True)
class Pair:
    """One name in two files.

    Args:
        name: canonical.
        status: one of `ORDER`.
        said: shapes or types, where they differ.
        difference: of the numbers, where they were compared and differ.
    """

    name: str
    status: str
    said: str = ""
    difference: Difference | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"status": self.status, **({"said": self.said} if self.said else {}), **(asdict(self.difference) if self.difference else {})}


def compared(a: Look, b: Look, recipe: InspectRecipe, listener: Listener) -> Outcome:
    """The outcome of looking at two."""
    differences = _differences(a, b, listener)
    names = [*a.items, *(name for name in b.items if name not in a.items)]
    pairs = [_pair(name, a.items.get(name), b.items.get(name), differences) for name in names]
    counts = Counter(pair.status for pair in pairs)
    said = ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])
    structure = _structure(a, b)
    facts = {
        "same": counts[SAME] == len(pairs),
        "counts": {status: counts[status] for status in ORDER},
        "structure": {key: {"same": one == other, "a": one, "b": other} for key, (one, other) in structure.items()},
        "structure_same": all(one == other for one, other in structure.values()),
        "tensors": {pair.name: pair.to_json() for pair in pairs},
        "values_read": differences is not None,
        "a": facts_of(a),
        "b": facts_of(b),
    }
    tables = (_files(a, b, structure), _tensors(pairs, listener, whole=recipe.all))
    notes = () if differences is not None else (f"values were not compared: {size(a.nbytes)} and {size(b.nbytes)}; add --values",)
    headline = f"A = {a.path}, B = {b.path}: {len(pairs)} tensors: {said}."
    return Outcome("inspect", headline, Report(facts=facts), tables=tuple(t for t in tables if t.rows), notes=notes)


def _differences(a: Look, b: Look, listener: Listener) -> Mapping[str, Difference] | None:
    """Name -> how the numbers of two tensors of one shape differ; None where values are not read."""
    if a.values is None or b.values is None:
        return None
    from sparsify_cli.stages.inspect_difference import differences

    return differences(a, b, [name for name in a.items if name in b.items and a.items[name].shape == b.items[name].shape], listener)


def _pair(name: str, a: Item | None, b: Item | None, found: Mapping[str, Difference] | None) -> Pair:
    if a is None or b is None:
        return Pair(name, "only in B" if a is None else "only in A")
    if a.shape != b.shape:
        return Pair(name, "shape differs", f"{list(a.shape)} and {list(b.shape)}")
    difference = found[name] if found is not None else None
    if a.dtype != b.dtype:
        return Pair(name, "dtype differs", f"{short(a.dtype)} and {short(b.dtype)}", difference)
    if difference is None:
        return Pair(name, UNREAD)
    return Pair(name, "values differ", difference=difference) if difference.differing else Pair(name, SAME)


def _structure(a: Look, b: Look) -> dict[str, tuple[Any, Any]]:
    """What the files are built of: name -> of the one, of the other."""
    one, other = _built(a), _built(b)
    return {key: (one[key], other[key]) for key in one}


def _built(look: Look) -> dict[str, Any]:
    opened = look.opened
    found: dict[str, Any] = {"kind": kind_of(look), "order of tensors": list(look.items), "types": list(bytes_by_type(look.items.values()))}
    found |= {"weights under": ".".join(opened.wrapper) if opened else "", "prefix": opened.prefix if opened else ""}
    found["one memory"] = sorted(shared_memory(opened)) if opened else sorted([i.alias_of, n] for n, i in look.items.items() if i.alias_of)
    found["also holds"] = dict(opened.layout.others) if opened else {}
    found["other tables"] = other_tables(opened) if opened else {}
    found["odd tensors"] = dict(opened.layout.odd) if opened else {}
    found["in parts"] = [list(fold.parts) for fold in opened.folds] if opened else []
    found["files"] = len(opened.layout.files) if opened else 1
    found["files beside"] = list(opened.layout.companions) if opened else []
    found["header says"] = dict(opened.layout.metadata) if opened else {}
    return found


def _files(a: Look, b: Look, structure: Mapping[str, tuple[Any, Any]]) -> Table:
    disk = [size(look.layout.bytes) if look.layout else "" for look in (a, b)]
    rows = [("on disk", *disk, "")]
    rows += [("same identity", a.sha256[:16], b.sha256[:16], "yes" if a.sha256 == b.sha256 else "no")]
    rows += [(key, _said(one, other), _said(other, one), "yes" if one == other else "no") for key, (one, other) in structure.items()]
    return Table("files", ("", "A", "B", "same"), tuple(row for row in rows if row[1] or row[2]))


def _said(one: Any, other: Any) -> str:
    """A part of the structure in a few words; of long ones what only this file has."""
    if not isinstance(one, list | dict):
        return clean(str(one))
    words = [f"{key}: {value}" for key, value in one.items()] if isinstance(one, dict) else [_joined(part) for part in one]
    theirs = {f"{key}: {value}" for key, value in other.items()} if isinstance(other, dict) else {_joined(part) for part in other}
    only = words if one == other and len(words) < 4 else [word for word in words if word not in theirs]
    more = f"{len(words)} entries" if words and not only else ""
    return clean(", ".join(only[:3]) + (f" and {len(only) - 3} more" if len(only) > 3 else "") + more)


def _joined(part: Any) -> str:
    return " = ".join(part) if isinstance(part, list) else str(part)


def _tensors(pairs: list[Pair], listener: Listener, *, whole: bool) -> Table:
    """Every tensor that is not the same."""
    rows = [_row(pair) for pair in pairs if pair.status not in (SAME, UNREAD)]
    if len(rows) > ROWS and not whole:
        listener.note(f"{len(rows) - ROWS} more tensors differ; --all shows every one")
        rows = rows[:ROWS]
    return filled(Table("tensors that differ", ("tensor", "what differs", "numbers", "of", "largest change", "zeros kept"), tuple(rows)))


def _row(pair: Pair) -> tuple[str, ...]:
    found, what = pair.difference, " ".join(filter(None, (pair.status.removesuffix(" differs").removesuffix(" differ"), pair.said)))
    if found is None:
        return clean(pair.name), what, "", "", "", ""
    largest = "not finite" if found.largest is None else significant(found.largest)
    kept = "" if not found.zeros_a else "yes" if found.zeros_kept else "no"
    return clean(pair.name), what, f"{found.differing:,}", f"{found.numbers:,}", largest, kept
