"""`inspect`: look inside a file or an artifact: tensors, shapes, sparsity, patterns, lineage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.pages.wording import percent
from sparsify_cli.recipes.option import decimal
from sparsify_cli.recipes.verbs import InspectRecipe
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import prunable_names
from sparsify_cli.stages.sizes import size_findings
from sparsify_cli.stages.subject import Subject, open_path
from sparsify_cli.stages.tables import filled, listing
from sparsify_cli.values.artifact import Artifact, is_artifact
from sparsify_cli.values.report import Finding, Report

PATTERNS = ((1, 4), (1, 2), (2, 4), (4, 8))
"""N:M patterns that are looked for, strictest first."""

KNOWN: Mapping[str, Any] = {"unit": str, "of": str, "note": str, "low": (int, float), "high": (int, float), "n": int}
"""What else a number of a manifest may say, and of what type it has to be."""


def inspect(recipe: InspectRecipe, listener: Listener) -> Outcome:
    """Describe a checkpoint file or an artifact."""
    del listener
    if not recipe.path:
        raise BadRequest("Nothing was named to inspect.", "", "Write: sparsify inspect model.pt")
    path = Path(recipe.path)
    if is_artifact(path):
        artifact = Artifact.open(path)
        if artifact.manifest.get("weights") is None or not artifact.complete:
            return _without_network(artifact)
    subject = open_path(path)
    zeros = {name: tensor.numel() - int(torch.count_nonzero(tensor)) for name, tensor in subject.checkpoint.tensors.items()}
    prunable = set(prunable_names(subject.checkpoint, subject.architecture))
    report = Report(tuple(f for f in size_findings(subject) if f.scope == "all"), _facts(subject, zeros, prunable))
    count = len(subject.checkpoint.tensors)
    headline = f"{path}: {count} tensor{'' if count == 1 else 's'}, {subject.checkpoint.parameters:,} numbers."
    tables = (_tensors(subject, zeros, prunable), listing("sizes", report), *_levels(subject))
    return Outcome("inspect", headline, report, tables=tables, notes=_notes(subject))


def _tensors(subject: Subject, zeros: Mapping[str, int], prunable: set[str]) -> Table:
    """One row a tensor, and one for all of a batch norm."""
    tensors = subject.checkpoint.tensors
    rows = []
    for name, tensor in tensors.items():
        norm, _, last = name.rpartition(".")
        if f"{norm}.running_mean" not in tensors or name in prunable:
            rows.append(_row(name, tensor, zeros[name], name in prunable))
        elif last == "running_mean":
            rows.append((f"{norm}.*", f"batch norm of {tensor.numel()}", _short(tensor), "", "", ""))
    return filled(Table("tensors", ("tensor", "shape", "type", "zeros", "pattern", "prunable"), tuple(rows)))


def found_pattern(tensor: Tensor) -> str:
    """The strictest N:M pattern that every group of a sparse tensor holds, or nothing."""
    if not tensor.is_floating_point() or not 2 <= tensor.ndim <= 5 or not bool((tensor == 0).any()):
        return ""
    matrix = to_matrix(tensor) != 0
    fits = [(n, m) for n, m in PATTERNS if tensor.shape[1] % m == 0 and int(matrix.reshape(-1, m).sum(1).max()) <= n]
    return f"{fits[0][0]}:{fits[0][1]}" if fits else ""


def _row(name: str, tensor: Tensor, zeros: int, prunable: bool) -> tuple[str, ...]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    share = percent(zeros / tensor.numel()) if tensor.numel() and zeros else ""
    return name, shape, _short(tensor), share, found_pattern(tensor) if zeros else "", "yes" if prunable else ""


def _short(tensor: Tensor) -> str:
    """`f32`, `bf16`, `i64`: types as short as they are read."""
    words = str(tensor.dtype).removeprefix("torch.")
    return words.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i").replace("complex", "c")


def _facts(subject: Subject, zeros: Mapping[str, int], prunable: set[str]) -> dict[str, Any]:
    checkpoint = subject.checkpoint
    facts: dict[str, Any] = {"sha256": checkpoint.source.sha256, "wrapper": list(checkpoint.wrapper), "prefix": checkpoint.prefix}
    facts["prunable"] = [name for name in checkpoint.tensors if name in prunable]
    facts["tensors"] = {
        name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch."), "zeros": zeros[name]}
        for name, t in checkpoint.tensors.items()
    }
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
    """An export, a memo, a report, or a run that was interrupted: what its manifest says."""
    files = ", ".join(sorted(path.name for path in artifact.folder.iterdir() if not path.name.startswith(".")))
    headline = f"{artifact.folder}: made by `{artifact.verb}`, {artifact.manifest['status']}; files: {files}."
    table = listing("numbers", map(_finding, artifact.manifest.get("numbers", [])))
    hints = () if artifact.complete else (f"sparsify {artifact.verb} --resume {artifact.folder}",)
    return Outcome("inspect", headline, tables=(table,) if table.rows else (), facts=dict(artifact.manifest), hints=hints)


def _finding(one: Mapping[str, Any]) -> Finding:
    """A number of a manifest, of which only name, scope and value are certain."""
    known = {key: one[key] for key, kind in KNOWN.items() if isinstance(one.get(key), kind)}
    value = float(one["value"]) if isinstance(one["value"], int | float) else None
    return Finding(name=str(one["name"]), value=value, scope=str(one["scope"]), **known)
