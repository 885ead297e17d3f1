"""`inspect`: look inside a file or an artifact, or at two beside each other; headers are enough for most of it.

Torch is imported only where numbers are read: values of small files, `--values`, and files of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingFile
from sparsify_cli.pages.wording import size
from sparsify_cli.recipes.option import decimal
from sparsify_cli.recipes.verbs import InspectRecipe
from sparsify_cli.stages.inspect_facts import facts_of, findings_of
from sparsify_cli.stages.inspect_look import Look, look_at
from sparsify_cli.stages.inspect_tables import file_table, forms_table, tensor_table
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.tables import listing
from sparsify_cli.values.artifact import Artifact, is_artifact
from sparsify_cli.values.report import Finding, Report

ZEROS = ("sparsity", "sparsity_total", "nonzeros")
"""Numbers that people see in a table of their own; bytes are in others."""

KNOWN: Mapping[str, Any] = {"unit": str, "of": str, "note": str, "low": (int, float), "high": (int, float), "n": int}
"""What else a number of a manifest may say, and of what type it has to be."""


def inspect(recipe: InspectRecipe, listener: Listener) -> Outcome:
    """Describe a checkpoint file or an artifact, or compare two.

    Raises:
        BadRequest: nothing was named, or more than two.
        MissingFile, UnreadableFile, UnsafePickle: as for opening them.
    """
    paths = [Path(path) for path in recipe.path]
    if not paths:
        raise BadRequest("Nothing was named to inspect.", "", "Write: sparsify inspect model.pt")
    if len(paths) > 2:
        raise BadRequest(f"{len(paths)} paths were named to inspect.", "Two can be compared.", "Name one or two.")
    if len(paths) == 2:
        from sparsify_cli.stages.inspect_pair import compared

        return compared(look_at(paths[0], recipe, listener), look_at(paths[1], recipe, listener), recipe, listener)
    return _one(paths[0], recipe, listener)


def _one(path: Path, recipe: InspectRecipe, listener: Listener) -> Outcome:
    if not path.exists():
        raise MissingFile(f"There is no file or artifact {path}.", "", "Check the path; artifacts are in runs/.")
    if is_artifact(path):
        artifact = Artifact.open(path)
        if artifact.manifest.get("weights") is None or not artifact.complete:
            return _without_network(artifact)
    look = look_at(path, recipe, listener)
    report = Report(tuple(findings_of(look)), facts_of(look))
    count, numbers = len(look.items), look.parameters
    headline = f"{path}: {count} tensor{'' if count == 1 else 's'}, {numbers:,} numbers."
    zeros = listing("zeros", (finding for finding in report if finding.name in ZEROS))
    tables = (file_table(look), tensor_table(look, listener, whole=recipe.all), zeros, forms_table(look), *_levels(look))
    return Outcome("inspect", headline, report, tables=tuple(table for table in tables if table.rows), notes=_notes(look))


def _notes(look: Look) -> tuple[str, ...]:
    notes = []
    if look.artifact:
        parent = look.artifact.manifest.get("parent")
        notes.append(f"made by `{look.artifact.verb}`" + (f" from {parent['path']}" if parent else ""))
    if look.values is None:
        notes.append(f"values were not read: {size(look.nbytes)}; add --values to count zeros and patterns")
    elif bad := [f"{name} ({seen.nonfinite:,})" for name, seen in look.values.seen.items() if seen.nonfinite]:
        notes.append(f"NaN or infinite numbers in {len(bad)} tensors: {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}")
    return tuple(notes)


def _levels(look: Look) -> tuple[Table, ...]:
    """The networks that are embedded in it."""
    nest = look.subject.nest if look.subject else None
    if nest is None:
        return ()
    masks = [nest.masks(level) for level in range(1, nest.levels + 1)]
    rows = tuple((str(n), decimal(s), f"{m.kept:,}") for n, (s, m) in enumerate(zip(nest.sparsities, masks, strict=True), 1))
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
