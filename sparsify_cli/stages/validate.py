"""`validate`: measure one network: accuracy, calibration, classes and groups, sparsity, bytes, latency."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

from sparsify_cli.contracts.dataset import Split
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import UnknownName
from sparsify_cli.recipes.verbs import ValidateRecipe
from sparsify_cli.stages.evidence import alone
from sparsify_cli.stages.gates import check_gates, read_gates, require_about_one
from sparsify_cli.stages.levels import level_note
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.sizes import size_findings
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import listing, said
from sparsify_cli.stages.write import Product, data_identity, write_product
from sparsify_cli.values.artifact import claimed
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.report import Finding, Report

NEWEST = ("recalibrate", "finetune", "prune", "shrink", "extract", "unlearn", "train", "export")


HEADLINE = {"perplexity": "perplexity", "accuracy": "accuracy", "ece": "ECE", "rmse": "RMSE", "r2": "R^2"}
"""Numbers of the sentence, where they were measured."""


def validate(recipe: ValidateRecipe, listener: Listener) -> Outcome:
    """Measure a checkpoint or artifact; `report.json` is written into a new folder when `--out` names one."""
    parse_split(recipe.split)
    for gate in read_gates(recipe.gate):
        require_about_one(gate)
    subject = open_subject(recipe, verbs=NEWEST, listener=listener)
    subject.known_architecture()
    if not recipe.out:
        return _measured(recipe, subject.checked())
    with claimed(Path(recipe.out)) as folder:
        outcome = _measured(recipe, subject.checked())
        file = _written(folder, outcome.report)
        write_product(folder, Product(recipe, subject, outcome.report, subject, facts={"files": [file.name]}))
    return replace(outcome, artifact=folder, files=(file,))


def _measured(recipe: ValidateRecipe, subject: Subject) -> Outcome:
    split = parse_split(recipe.split)
    samples = subject.samples(split)
    report = Report(
        (*alone(subject, split=split, names=()), *size_findings(subject), _file_size(subject)),
        {"model": str(subject.path), "split": split, "data_sha256": data_identity(samples), "samples": len(samples)},
    )
    checked, failure = check_gates(recipe.gate, report)
    measured = ", ".join(f"{label} {said(report.get(name))}" for name, label in HEADLINE.items() if report.get(name))
    headline = f"{subject.path} on {len(samples):,} {split} samples: {measured}."
    notes = (*level_note(subject), *(one.sentence for one in checked))
    return Outcome("validate", headline, report, tables=_tables(report), notes=notes, failure=failure)


def parse_split(text: str) -> Split:
    """The split of that name.

    Raises:
        UnknownName: there is none.
    """
    if text not in get_args(Split):
        raise UnknownName("split", text, get_args(Split))
    split: Split = text  # type: ignore[assignment]
    return split


def _file_size(subject: Subject) -> Finding:
    path = Path(subject.checkpoint.source.path)
    text = "Size of the file the network was read from."
    size = float(path.stat().st_size) if path.is_file() else None
    return Finding(name="bytes_file", value=size, unit="bytes", better="lower", definition=text)


def _tables(report: Report) -> tuple[Table, ...]:
    whole = [f for f in report if f.scope == "all"]
    classes = [f for f in report if f.scope.startswith("class:") and f.name == "accuracy"]
    groups = [f for f in report if f.scope.startswith("group:") and f.name == "accuracy"]
    attributes = [f for f in report if f.scope.startswith("attribute:") and f.name == "accuracy"]
    titled = (("measured", whole), ("accuracy by class", classes), ("accuracy by attribute", attributes), ("accuracy by group", groups))
    return tuple(listing(title, [replace(f, note="" if f.value is not None else f.note) for f in rows]) for title, rows in titled if rows)


def _written(folder: Path, report: Report) -> Path:
    text = json.dumps(report.to_json(), indent=1, allow_nan=False)
    replace_file(folder / "report.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return folder / "report.json"
