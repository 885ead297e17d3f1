"""`transfer`: errors of sparse networks on several tasks beside the dense network's, from artifacts or from a table of results.

Nothing is measured anew: an artifact's own test accuracy is read from its manifest. Artifacts of `finetune --transfer` belong to
one network when they have the same parent, and to one task when they were trained on the same data.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingFile, UnreadableFile
from sparsify_cli.maths.transfer import Transferred, transferred
from sparsify_cli.recipes.verbs import TransferRecipe
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.values.artifact import Artifact
from sparsify_cli.values.report import Finding, Report

COLUMNS = {
    "task": ("task", "dset", "dataset"),
    "model": ("model", "method"),
    "sparsity": ("sparsity",),
    "accuracy": ("accuracy", "val_acc", "test_acc"),
}
"""What a table of results says -> the names its columns may have."""


@dataclass(frozen=True)
class Result:
    """One network on one task.

    Args:
        task: which.
        model: whose weights it started from, and what was trained.
        sparsity: of what it started from, fraction; 0 = dense.
        accuracy: on test data, fraction.
    """

    task: str
    model: str
    sparsity: float
    accuracy: float


def transfer(recipe: TransferRecipe, listener: Listener) -> Outcome:
    """Mean relative change of error of every sparse network."""
    del listener
    results = [*(_of_artifact(Path(path)) for path in recipe.artifact), *(_of_table(Path(recipe.results)) if recipe.results else ())]
    if not results:
        raise BadRequest("`transfer` needs results.", "", "Name artifacts of `finetune --transfer`, or a table: --results results.csv")
    dense = _means([r for r in results if not r.sparsity])
    if not dense:
        raise BadRequest("None of the results is of a dense network.", "Errors are told beside its own.", "Add one of sparsity 0.")
    perfect = [task for tasks in dense.values() for task, accuracy in tasks.items() if accuracy >= 1]
    if perfect:
        raise BadRequest(f"The dense network makes no error on {perfect[0]}.", "Nothing can be told relative to that.", "Leave it out.")
    found = {name: _beside(name, dense, tasks) for name, tasks in _means([r for r in results if r.sparsity]).items()}
    return _outcome({name: one for name, one in found.items() if one.changes}, dense)


Key = tuple[str, str, float]
"""What was trained, model, sparsity."""


def _means(results: Sequence[Result]) -> dict[Key, dict[str, float]]:
    """(Trained part, model, sparsity) -> task -> accuracy, mean over seeds."""
    of: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in results:
        model, _, trained = one.model.partition("\n")
        of[trained, model, one.sparsity][one.task].append(one.accuracy)
    return {key: {task: statistics.fmean(values) for task, values in tasks.items()} for key, tasks in of.items()}


def _beside(key: Key, dense: Mapping[Key, Mapping[str, float]], tasks: Mapping[str, float]) -> Transferred:
    """Beside the dense network of which the same part was trained."""
    same = {task: accuracy for (trained, _, _), known in dense.items() if trained == key[0] for task, accuracy in known.items()}
    return transferred(same, tasks)


def _of_artifact(path: Path) -> Result:
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
    name = f"{Path(parent['path']).name} {str(parent['sha256'])[:6]}\n{part}"
    return Result(task, name, round(float(numbers.get("sparsity") or 0), 4), float(numbers["accuracy"]))


def _of_table(path: Path) -> list[Result]:
    """Rows of a CSV file.

    Raises:
        MissingFile, UnreadableFile: it is not there, lacks a column, or a number is none.
    """
    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", "", "Name a CSV file with task, model, sparsity and accuracy.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
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
    return Result(row["task"], row["model"], sparsity, accuracy)


def _outcome(found: Mapping[Key, Transferred], dense: Mapping[Key, Mapping[str, float]]) -> Outcome:
    if not found:
        raise BadRequest("No sparse network was measured on a task of the dense one.", "", "Train both on the same data.")
    text = "Mean over tasks of (error - dense error) / dense error; negative is better."
    findings = [
        Finding(
            name="relative_error_change", value=one.mean, low=one.mean - one.error, high=one.mean + one.error, n=len(one.changes),
            better="lower", definition=text, scope=f"model:{_name(key)}", source="Iofinova et al. 2022, arXiv 2111.13445",
            note="one standard error over tasks to both sides",
        )
        for key, one in found.items()
    ]  # fmt: skip
    best = min(found, key=lambda key: found[key].mean)
    return Outcome(
        "transfer",
        f"{_name(best)} transfers best: error {found[best].mean:+.1%} beside dense, mean of {len(found[best].changes)} tasks.",
        Report(tuple(findings), {"tasks": {_name(key): dict(one.changes) for key, one in found.items()}}),
        tables=(_summary(found), _by_task(found)),
        notes=_notes(found, dense),
    )


def _name(key: Key) -> str:
    trained, model, sparsity = key
    return " ".join(word for word in (model, f"{sparsity:.1%}".replace(".0%", "%"), trained) if word)


def _summary(found: Mapping[Key, Transferred]) -> Table:
    rows = [
        (
            _name(key),
            f"{one.accuracy:.2%}",
            f"{one.mean:+.3f}",
            "-" if math.isnan(one.error) else f"{one.error:.3f}",
            f"{one.better}/{len(one.changes)}",
        )
        for key, one in found.items()
    ]
    return Table("error beside the dense network's", ("network", "accuracy", "change", "std error", "better"), tuple(rows))


def _by_task(found: Mapping[Key, Transferred]) -> Table:
    tasks = dict.fromkeys(task for one in found.values() for task in one.changes)
    rows = [
        (_name(key), task, f"{one.accuracies[task]:.2%}", f"{one.changes[task]:+.3f}")
        for key, one in found.items()
        for task in tasks
        if task in one.changes
    ]
    return Table("by task", ("network", "task", "accuracy", "change"), tuple(rows))


def _notes(found: Mapping[Key, Transferred], dense: Mapping[Key, Mapping[str, float]]) -> tuple[str, ...]:
    most = max(len(one.changes) for one in found.values())
    short = [_name(key) for key, one in found.items() if len(one.changes) < most]
    notes = [f"{', '.join(short)}: measured on fewer tasks than others, so means are not of the same tasks."] if short else []
    several = len({key[1] for key in dense}) > 1
    return (*notes, *(["more than one dense network was named: of each task the last one counts."] if several else []))
