"""`transfer`: errors of sparse networks on several tasks beside the dense network's, from artifacts or from a table of results.

Nothing is measured anew: an artifact's own test accuracy is read from its manifest. Artifacts of `finetune --transfer` belong to
one network when they have the same parent, and to one task when they were trained on the same data. A network is compared with the
dense one it descends from (in a table: of its own model); where none was named, with the mean of those that were, as the paper does.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingFile, SparsifyError, UnreadableFile
from sparsify_cli.maths.transfer import Transferred, transferred
from sparsify_cli.recipes.verbs import TransferRecipe
from sparsify_cli.stages.lineage import ancestors
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.subject import open_path
from sparsify_cli.values.artifact import Artifact
from sparsify_cli.values.report import Finding, Report

SOURCE = "Iofinova et al. 2022, arXiv 2111.13445"
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
        model: whose weights it started from.
        part: what was trained.
        sparsity: of the network, fraction, to a tenth of a percent; 0 = dense.
        accuracy: on test data, fraction.
        origin: what tells the weights it started from.
        kin: origins of the networks it descends from.
    """

    task: str
    model: str
    part: str
    sparsity: float
    accuracy: float
    origin: str
    kin: frozenset[str] = field(default_factory=frozenset)

    @property
    def key(self) -> Key:
        """Which row of the table it belongs to."""
        return self.part, self.model, self.sparsity


Key = tuple[str, str, float]
"""What was trained, model, sparsity."""


def transfer(recipe: TransferRecipe, listener: Listener) -> Outcome:
    """Mean relative change of error of every sparse network."""
    del listener
    results = [*(_of_artifact(Path(path)) for path in recipe.artifact), *(_of_table(Path(recipe.results)) if recipe.results else ())]
    if not results:
        raise BadRequest("`transfer` needs results.", "", "Name artifacts of `finetune --transfer`, or a table: --results results.csv")
    dense = [one for one in results if not one.sparsity]
    if not dense:
        raise BadRequest("None of the results is of a dense network.", "Errors are told beside its own.", "Add one of sparsity 0.")
    rows: dict[Key, list[Result]] = defaultdict(list)
    for one in results:
        if one.sparsity:
            rows[one.key].append(one)
    beside = {key: _beside(of, dense) for key, of in rows.items()}
    found = {key: _compared(of, beside[key]) for key, of in rows.items()}
    strangers = [_name(key) for key, of in rows.items() if _are_strangers(of, beside[key])]
    return _outcome({key: one for key, one in found.items() if one.changes}, strangers)


def _beside(of: Sequence[Result], dense: Sequence[Result]) -> list[Result]:
    """The dense networks of which the same part was trained: its own where there are some, else all."""
    same = [one for one in dense if one.part == of[0].part]
    return [one for one in same if _is_kin(one, of)] or same


def _is_kin(dense: Result, of: Sequence[Result]) -> bool:
    return any(dense.origin in one.kin for one in of)


def _are_strangers(of: Sequence[Result], dense: Sequence[Result]) -> bool:
    """True where the dense networks are not what it descends from; a table's only one needs no word."""
    told = bool(of[0].part) or len({one.origin for one in dense}) > 1
    return told and not any(_is_kin(one, of) for one in dense)


def _compared(of: Sequence[Result], dense: Sequence[Result]) -> Transferred:
    """Changes of error, accuracies of a task averaged.

    Raises:
        BadRequest: the dense network makes no error on one of the tasks.
    """
    then, now = _by_seed(dense), _by_seed(of)
    perfect = [task for task, accuracy in then.items() if accuracy >= 1 and task in now]
    if perfect:
        raise BadRequest(f"The dense network makes no error on {perfect[0]}.", "Nothing can be told relative to that.", "Leave it out.")
    return transferred(then, now)


def _by_seed(results: Iterable[Result]) -> dict[str, float]:
    """Task -> accuracy, mean over results."""
    of: dict[str, list[float]] = defaultdict(list)
    for one in results:
        of[one.task].append(one.accuracy)
    return {task: statistics.fmean(values) for task, values in of.items()}


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
    origin = str(parent["sha256"])
    name = f"{Path(parent['path']).name} {origin[:6]}"
    sparsity = round(float(numbers.get("sparsity") or 0), 3)
    return Result(task, name, part, sparsity, float(numbers["accuracy"]), origin, _kin(path))


def _kin(path: Path) -> frozenset[str]:
    """Hashes of everything an artifact descends from, as far as it is still there."""
    found = []
    try:
        for parent in ancestors(open_path(path)):
            found.append(parent.checkpoint.source.sha256)
    except SparsifyError:
        pass
    return frozenset(found)


def _of_table(path: Path) -> list[Result]:
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


def _outcome(found: Mapping[Key, Transferred], strangers: Sequence[str]) -> Outcome:
    if not found:
        raise BadRequest("No sparse network was measured on a task of the dense one.", "", "Train both on the same data.")
    text = "Mean over tasks of (error - dense error) / dense error; negative is better."
    findings = [
        Finding(
            name="relative_error_change", value=one.mean, low=_sound(one.mean - one.error), high=_sound(one.mean + one.error),
            n=len(one.changes), better="lower", definition=text, scope=f"model:{_name(key)}", source=SOURCE,
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
        notes=_notes(found, strangers),
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


def _sound(value: float) -> float | None:
    return None if math.isnan(value) else value


def _notes(found: Mapping[Key, Transferred], strangers: Sequence[str]) -> tuple[str, ...]:
    most = max(len(one.changes) for one in found.values())
    short = [_name(key) for key, one in found.items() if len(one.changes) < most]
    notes = [f"{', '.join(short)}: measured on fewer tasks than others, so means are not of the same tasks."] if short else []
    if strangers:
        notes.append(f"{', '.join(strangers)}: compared with the mean of the dense networks named; none of them is what it descends from.")
    return tuple(notes)
