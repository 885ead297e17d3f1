"""Results of networks on tasks: from artifacts of `finetune --transfer`, or from a table that somebody else made."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsify_cli.errors import BadRequest, MissingFile, SparsifyError, UnreadableFile
from sparsify_cli.stages.lineage import ancestors
from sparsify_cli.stages.subject import open_path
from sparsify_cli.values.artifact import Artifact

COLUMNS = {
    "task": ("task", "dset", "dataset"),
    "model": ("model", "method"),
    "sparsity": ("sparsity",),
    "accuracy": ("accuracy", "val_acc", "test_acc"),
}
"""What a table of results says -> the names its columns may have."""


SETTINGS = ("epochs", "lr", "schedule", "optimizer", "weight_decay", "batch_size", "augment", "objective", "precision")
"""What networks that are compared should have been trained with alike."""


@dataclass(frozen=True)
class Result:
    """One network on one task.

    Args:
        task: which.
        model: whose weights it started from.
        part: what was trained.
        sparsity: of the network, fraction, to a tenth of a percent; 0 = dense.
        accuracy: on test data, fraction.
        origin: what tells the weights it started from.
        kin: origins of the networks it descends from.
        settings: how it was trained, where that is known.
    """

    task: str
    model: str
    part: str
    sparsity: float
    accuracy: float
    origin: str
    kin: frozenset[str] = field(default_factory=frozenset)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Which row of the table it belongs to."""
        return self.part, self.model, self.sparsity


Key = tuple[str, str, float]
"""What was trained, model, sparsity."""


def of_artifact(path: Path) -> Result:
    """What an artifact's manifest says.

    Raises:
        BadRequest: it was not made for another task, or its accuracy was not measured.
    """
    artifact = Artifact.open(path)
    manifest = artifact.manifest
    part = manifest.get("recipe", {}).get("transfer", "none")
    parent = manifest.get("parent")
    if part == "none" or not parent:
        raise BadRequest(f"{path} was not made for another task.", "", "Name artifacts of `finetune --transfer linear` or `full`.")
    data = manifest.get("data") or {}
    options = ",".join(f"{key}={value}" for key, value in data.get("options", {}).items() if key != "path")
    where = Path(str(data.get("options", {}).get("path", data.get("name", "")))).name
    identity = str(manifest.get("facts", {}).get("data_sha256", ""))[:6]
    task = " ".join(word for word in (where, options, identity) if word)
    numbers = {one["name"]: one["value"] for one in manifest.get("numbers", []) if (one["of"], one["scope"]) == ("compressed", "all")}
    if numbers.get("accuracy") is None:
        raise BadRequest(f"{path} has no test accuracy in its manifest.", "", "Name finished artifacts of `finetune --transfer`.")
    origin = str(parent["sha256"])
    name = f"{Path(parent['path']).name} {origin[:6]}"
    is_sparse = manifest.get("masks_sha256") is not None  # a dense network may hold a few exact zeros
    sparsity = max(0.001, round(float(numbers.get("sparsity") or 0), 3)) if is_sparse else 0.0
    settings = {name: str(manifest["recipe"].get(name)) for name in SETTINGS}
    return Result(task, name, part, sparsity, float(numbers["accuracy"]), origin, _kin(path), settings)


def _kin(path: Path) -> frozenset[str]:
    """Hashes of everything an artifact descends from, as far as it is still there."""
    found = []
    try:
        for parent in ancestors(open_path(path)):
            found.append(parent.checkpoint.source.sha256)
    except SparsifyError:
        pass
    return frozenset(found)


def of_table(path: Path) -> list[Result]:
    """Rows of a CSV file.

    Raises:
        MissingFile, UnreadableFile: it is not there, lacks a column, or a number is none.
    """
    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", "", "Name a CSV file with task, model, sparsity and accuracy.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFile(f"{path} is no CSV text in UTF-8.", f"{error}.") from error
    names = {name: next((c for c in known if rows and c in rows[0]), "") for name, known in COLUMNS.items()}
    missing = [name for name, column in names.items() if not column]
    if missing:
        raise UnreadableFile(f"{path} has no column {missing[0]}.", "", "Its first line must name task, model, sparsity, accuracy.")
    return [_of_row(path, i, {name: row[column] for name, column in names.items()}) for i, row in enumerate(rows, start=2)]


def _of_row(path: Path, line: int, row: Mapping[str, Any]) -> Result:
    try:
        sparsity, accuracy = float(row["sparsity"]), float(row["accuracy"])
    except (TypeError, ValueError) as error:
        raise UnreadableFile(f"Line {line} of {path} has no number for sparsity or accuracy.") from error
    if not (0 <= sparsity <= 1 and 0 <= accuracy <= 1):
        raise UnreadableFile(f"Line {line} of {path} has a sparsity or accuracy outside [0, 1].", "", "Write fractions, such as 0.75.")
    if not row["task"] or not row["model"]:
        raise UnreadableFile(f"Line {line} of {path} names no task or no model.")
    return Result(row["task"], row["model"], "", round(sparsity, 3), accuracy, row["model"], frozenset((row["model"],)))
