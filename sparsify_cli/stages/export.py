"""`export`: write the network in another format, verify the files against it, say how large they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparsify_cli.contracts.exporter import Exportable, Exporter
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.shared import OutputFields
from sparsify_cli.recipes.verbs import ExportRecipe
from sparsify_cli.stages.levels import level_network, nest_of, require_level
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.output_form import as_written
from sparsify_cli.stages.reading import odd_notes
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import listing
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import claimed
from sparsify_cli.values.report import Finding, Report

NEWEST = ("recalibrate", "finetune", "prune", "shrink", "extract", "unlearn", "train")
INPUTS = 8
"""Real inputs an export is verified on."""


def export(recipe: ExportRecipe, listener: Listener) -> Outcome:
    """Export a checkpoint, an artifact, or one level of an embedded artifact."""
    strategy("exporters", recipe.to)
    opened = open_subject(recipe, verbs=NEWEST, listener=listener)
    return exported(recipe, recipe.to, _network(opened, recipe.level), opened)


def exported(recipe: OutputFields, to: Choice, subject: Subject, parent: Subject, *, facts: Mapping[str, Any] | None = None) -> Outcome:
    """Write one network in a format, verified.

    Args:
        recipe: where the result goes.
        to: the format.
        subject: the network.
        parent: what it is part of, or itself.
        facts: further plain values for the manifest.
    """
    exporter: Exporter = strategy("exporters", to)
    folder, held = output_folder(recipe, subject.name)
    with claimed(folder, held=held):
        exportable = _exportable(subject)
        files = exporter.export(exportable, folder)
        verified = [f for f in exporter.verify(exportable, folder) if f.name != "bytes"]  # counted below, over all files
        report = Report((*_bytes(subject, files, _key(to)), *verified), {"format": to.name})
        write_product(
            folder,
            Product(recipe, subject, report, parent, masks=subject.masks, facts={"files": [file.name for file in files], **(facts or {})}),
        )
    return Outcome(
        recipe.verb,
        _headline(report, to),
        report,
        folder,
        tables=(_sizes(report, _key(to)), listing("verified", verified)),
        files=tuple(files),
        notes=odd_notes(parent.checkpoint, stay=False),
    )


def _network(opened: Subject, level: str) -> Subject:
    """The one network that is exported."""
    return level_network(opened, require_level(nest_of(opened), level)) if level or opened.nest else opened


def _key(to: Choice) -> str:
    return f"bytes_{to.name.replace('-', '_')}"


def _headline(report: Report, to: Choice) -> str:
    dense, after = (found.value or 0 if (found := report.get(key)) else 0 for key in ("bytes_dense", _key(to)))
    times = f"{dense / max(after, 1):.2f} x smaller" if after < dense else f"{after / max(dense, 1):.2f} x as large"
    return f"Exported to {to.name}: {dense:,.0f} bytes of tensors, {after:,.0f} bytes of files ({times}); verified."


def _sizes(report: Report, exported: str) -> Table:
    labels = {"bytes_file": "file that was read", "bytes_dense": "its tensors, stored dense", exported: "exported"}
    found = ((label, report.get(key)) for key, label in labels.items())
    return Table("sizes", ("what", "bytes"), tuple((label, f"{f.value:,.0f}") for label, f in found if f and f.value is not None))


def _exportable(subject: Subject) -> Exportable:
    tensors = subject.masks.apply(subject.checkpoint.tensors)
    folded = subject.changed(subject.checkpoint.with_tensors(tensors), subject.masks)
    if not subject.trusted:
        subject.known_architecture()
    build: Callable[[], nn.Module] | None = (lambda: as_written(folded.module())) if subject.architecture else None
    inputs = subject.samples("test").inputs[:INPUTS] if subject.data else None
    return Exportable(folded.checkpoint, subject.masks, build, inputs)


def _bytes(subject: Subject, files: list[Path], exported: str) -> list[Finding]:
    tensors, home = subject.checkpoint.tensors.values(), subject.checkpoint.home
    path = Path(subject.checkpoint.source.path)
    read = home.layout.bytes if home else path.stat().st_size if path.is_file() else None
    sizes = (
        *((("bytes_file", read, "Size of the file that was read; it may hold more than the network, e.g. an optimizer."),) if read else ()),
        ("bytes_dense", sum(tensor.nbytes for tensor in tensors), "Bytes of all exported tensors when every number is stored."),
        (exported, sum(file.stat().st_size for file in files), "Size of the exported files."),
    )
    return [Finding(name=key, value=float(size), unit="bytes", better="lower", definition=text) for key, size, text in sizes]
