"""`export`: write the network in another format, verify the files against it, print bytes before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from sparsify_cli.contracts.exporter import Exportable, Exporter
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.verbs import ExportRecipe
from sparsify_cli.stages.extract import level_network, nest_of
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import listing
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import claimed
from sparsify_cli.values.report import Finding, Report

NEWEST = ("finetune", "prune", "extract", "unlearn", "train")
INPUTS = 8
"""Real inputs an export is verified on."""


def export(recipe: ExportRecipe, listener: Listener) -> Outcome:
    """Export a checkpoint, an artifact, or one level of an embedded artifact."""
    exporter: Exporter = strategy("exporters", recipe.to)
    opened = open_subject(recipe, verbs=NEWEST, listener=listener)
    subject = level_network(opened, nest_of(opened).find(recipe.level)) if recipe.level else opened
    folder, held = output_folder(recipe, subject.name)
    with claimed(folder, held=held):
        exportable = _exportable(subject)
        files = exporter.export(exportable, folder)
        report = Report((*_bytes(subject, files, recipe.to.name), *exporter.verify(exportable, folder)), {"format": recipe.to.name})
        write_product(folder, Product(recipe, subject, report, opened, masks=subject.masks, facts={"files": [file.name for file in files]}))
    before, after = (report.findings[i].value or 0 for i in (0, 1))
    headline = (
        f"Exported to {recipe.to.name}: {before:,.0f} bytes before, {after:,.0f} after ({before / max(after, 1):.2f} x smaller); verified."
    )
    return Outcome("export", headline, report, folder, tables=(listing("verified", report),), files=tuple(files))


def _exportable(subject: Subject) -> Exportable:
    tensors = subject.masks.apply(subject.checkpoint.tensors)
    folded = subject.changed(subject.checkpoint.with_tensors(tensors), subject.masks)
    build: Callable[[], nn.Module] | None = folded.module if subject.architecture else None
    inputs = subject.samples("test").inputs[:INPUTS] if subject.data else None
    return Exportable(folded.checkpoint, subject.masks, build, inputs)


def _bytes(subject: Subject, files: list[Path], name: str) -> list[Finding]:
    source = Path(subject.checkpoint.source.path)
    after = sum(file.stat().st_size for file in files)
    return [
        Finding(name="bytes_before", value=float(source.stat().st_size), unit="bytes", definition="Size of the file that was exported."),
        Finding(name=f"bytes_{name}", value=float(after), unit="bytes", better="lower", definition="Size of the exported files."),
    ]
