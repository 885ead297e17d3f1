"""What `inspect` says to programs: every tensor, the structure of the file, and the numbers about all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sparsify_cli.stages.inspect_look import Item, Look, shared_memory
from sparsify_cli.stages.inspect_tables import bytes_by_type, kind_of, other_tables
from sparsify_cli.stages.opening import Opened
from sparsify_cli.values.layout import FLOATS
from sparsify_cli.values.report import Finding

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Batch-norm statistics: stored with a model, but no parameters."""

KEPT = ("verb", "created", "recipe", "parent", "architecture", "data", "versions")
"""Entries of a manifest that are shown."""


def facts_of(look: Look) -> dict[str, Any]:
    """Everything that was found, as plain JSON values."""
    opened = look.opened
    network = look.subject.checkpoint if look.subject else None
    facts: dict[str, Any] = {
        "path": str(look.path),
        "sha256": look.sha256,
        "kind": opened.layout.kind if opened else "ours",
        "kind_in_words": kind_of(look),
        "wrapper": list(opened.wrapper if opened else network.wrapper if network else ()),
        "prefix": opened.prefix if opened else network.prefix if network else "",
        "prunable": [name for name, item in look.items.items() if item.verdict.matched],
        "tensors": {name: _tensor(look, item) for name, item in look.items.items()},
        "bytes_by_type": bytes_by_type(look.items.values()),
        "values_read": look.values is not None,
        "forms": look.values.forms(look.items) if look.values else None,
    }
    if look.artifact:
        facts["manifest"] = {key: look.artifact.manifest.get(key) for key in KEPT}
    return {**facts, **(_structure(opened) if opened else {})}


def _structure(opened: Opened) -> dict[str, Any]:
    layout = opened.layout
    return {
        "files": {name: (layout.root / name).stat().st_size for name in layout.files},
        "companions": list(layout.companions),
        "others": dict(layout.others),
        "odd": dict(layout.odd),
        "other_tables": other_tables(opened),
        "folds": [asdict(fold) for fold in opened.folds],
        "sharing": shared_memory(opened),
        "foreign": list(layout.foreign),
        "metadata": dict(layout.metadata),
    }


def _tensor(look: Look, item: Item) -> dict[str, Any]:
    """One tensor; what was found in its numbers only where they were read."""
    facts: dict[str, Any] = {"shape": list(item.shape), "dtype": item.dtype, "bytes": item.nbytes}
    facts |= {"prunable": item.verdict.matched, "why": item.verdict.why, "alias_of": item.alias_of or None}
    if look.values is None:
        return facts
    seen = look.values.seen[item.name]
    facts |= {"zeros": seen.zeros, "nonfinite": seen.nonfinite, "forms": seen.bytes_by_form(item)}
    if seen.shape is not None:
        facts |= {"pattern": seen.shape.pattern, "block": seen.shape.block}
        facts |= {"dead_rows": seen.shape.dead_rows, "dead_columns": seen.shape.dead_columns}
    return facts


def findings_of(look: Look) -> list[Finding]:
    """Numbers about all tensors; zeros only where values were read."""
    weights = {n: item for n, item in look.items.items() if item.dtype in FLOATS and not n.endswith(BUFFERS)}
    parameters = sum(item.size for item in weights.values())
    found = [
        _finding("parameters", float(parameters), "parameters", "All numbers that training sets, zeros included.", parameters),
        _finding("bytes_dense", float(look.nbytes), "bytes", "Size of all stored tensors when every number is written, zeros included."),
    ]
    if look.layout is not None:
        found.append(_finding("bytes_files", float(look.layout.bytes), "bytes", "Size on disk of the files that hold the tensors."))
    return [*_zeros(look, weights), *found, *_packed(look)]


def _zeros(look: Look, weights: Mapping[str, Item]) -> list[Finding]:
    if look.values is None:
        return []
    seen, masked = look.values.seen, look.values.masked
    prunable = [item for name, item in weights.items() if (name in masked if masked else item.verdict.matched)]
    size, total = sum(item.size for item in prunable), sum(item.size for item in weights.values())
    zeros, all_zeros = sum(seen[item.name].zeros for item in prunable), sum(seen[name].zeros for name in weights)
    return [
        _finding("sparsity", zeros / size if size else None, "fraction", "Share of the prunable weights that are exactly zero.", size),
        _finding(
            "sparsity_total", all_zeros / total if total else None, "fraction", "Share of all parameters that are exactly zero.", total
        ),
        _finding("nonzeros", float(total - all_zeros), "parameters", "Parameters that are not zero.", total),
    ]


def _packed(look: Look) -> list[Finding]:
    if look.values is None:
        return []
    words = "Size of all tensors, each in its smallest exact form; headers not counted."
    return [_finding("bytes_packed", float(look.values.forms(look.items)["packed"]), "bytes", words)]


def _finding(name: str, value: float | None, unit: str, definition: str, n: int = 0) -> Finding:
    return Finding(name=name, value=value, unit=unit, n=n, definition=definition, better="lower" if unit == "bytes" else "neither")
