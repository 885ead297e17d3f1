"""`inspect`: look inside a file or an artifact: tensors, shapes, sparsity, patterns, lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.recipes.option import decimal
from sparsify_cli.recipes.verbs import InspectRecipe
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import prunable_names
from sparsify_cli.stages.sizes import size_findings
from sparsify_cli.stages.subject import Subject, open_path
from sparsify_cli.stages.tables import listing
from sparsify_cli.values.artifact import Artifact, is_artifact
from sparsify_cli.values.report import Report

PATTERNS = ((1, 4), (1, 2), (2, 4), (4, 8))
"""N:M patterns that are looked for, strictest first."""


def inspect(recipe: InspectRecipe, listener: Listener) -> Outcome:
    """Describe a checkpoint file or an artifact."""
    del listener
    if not recipe.path:
        raise BadRequest("Nothing was named to inspect.", "", "Write: sparsify inspect model.pt")
    path = Path(recipe.path)
    if is_artifact(path) and Artifact.open(path).manifest.get("weights") is None:
        return _without_network(Artifact.open(path))
    subject = open_path(path)
    prunable = set(prunable_names(subject.checkpoint, subject.architecture))
    table = Table(
        "tensors",
        ("tensor", "shape", "dtype", "zeros", "pattern", "prunable"),
        tuple(_row(n, t, n in prunable) for n, t in subject.checkpoint.tensors.items()),
    )
    report = Report(tuple(f for f in size_findings(subject) if f.scope == "all"), _facts(subject))
    headline = f"{path}: {len(subject.checkpoint.tensors)} tensors, {subject.checkpoint.parameters:,} numbers."
    tables = (table, listing("sizes", report), *_levels(subject))
    return Outcome("inspect", headline, report, tables=tables, notes=_notes(subject))


def found_pattern(tensor: Tensor) -> str:
    """The strictest N:M pattern that every group of a sparse tensor holds, or nothing."""
    if not tensor.is_floating_point() or not 2 <= tensor.ndim <= 5 or not bool((tensor == 0).any()):
        return ""
    matrix = to_matrix(tensor) != 0
    fits = [(n, m) for n, m in PATTERNS if tensor.shape[1] % m == 0 and int(matrix.reshape(-1, m).sum(1).max()) <= n]
    return f"{fits[0][0]}:{fits[0][1]}" if fits else ""


def _row(name: str, tensor: Tensor, prunable: bool) -> tuple[str, ...]:
    zeros = float((tensor == 0).double().mean()) if tensor.numel() else 0.0
    dtype = str(tensor.dtype).removeprefix("torch.")
    return name, "x".join(map(str, tensor.shape)) or "scalar", dtype, f"{zeros:.1%}", found_pattern(tensor), "yes" if prunable else "no"


def _facts(subject: Subject) -> dict[str, Any]:
    checkpoint = subject.checkpoint
    facts: dict[str, Any] = {"sha256": checkpoint.source.sha256, "wrapper": list(checkpoint.wrapper), "prefix": checkpoint.prefix}
    facts["prunable"] = prunable_names(checkpoint, subject.architecture)
    facts["tensors"] = {name: {"shape": list(t.shape), "zeros": int((t == 0).sum())} for name, t in checkpoint.tensors.items()}
    if subject.artifact:
        facts["manifest"] = {
            key: subject.artifact.manifest.get(key) for key in ("verb", "created", "recipe", "parent", "architecture", "data", "versions")
        }
    return facts


def _notes(subject: Subject) -> tuple[str, ...]:
    checkpoint = subject.checkpoint
    notes = [f"weights found under the key {'.'.join(checkpoint.wrapper)}" if checkpoint.wrapper else ""]
    notes += [f"the key prefix {checkpoint.prefix!r} was removed" if checkpoint.prefix else ""]
    if subject.artifact:
        parent = subject.artifact.manifest.get("parent")
        notes += [f"made by `{subject.artifact.verb}`" + (f" from {parent['path']}" if parent else "")]
    return tuple(filter(None, notes))


def _levels(subject: Subject) -> tuple[Table, ...]:
    if subject.nest is None:
        return ()
    masks = [subject.nest.masks(level) for level in range(1, subject.nest.levels + 1)]
    rows = tuple((str(n), decimal(s), f"{m.kept:,}") for n, (s, m) in enumerate(zip(subject.nest.sparsities, masks, strict=True), 1))
    return (Table("embedded levels", ("level", "sparsity", "weights"), rows),)


def _without_network(artifact: Artifact) -> Outcome:
    numbers = [(one["name"], one["scope"], str(one["value"])) for one in artifact.manifest.get("numbers", [])]
    files = ", ".join(sorted(path.name for path in artifact.folder.iterdir() if not path.name.startswith(".")))
    headline = f"{artifact.folder}: made by `{artifact.verb}`, {artifact.manifest['status']}; files: {files}."
    return Outcome(
        "inspect", headline, tables=(Table("numbers", ("number", "of", "value"), tuple(numbers)),), facts=dict(artifact.manifest)
    )
