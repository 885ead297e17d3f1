"""`transfer`: errors of sparse networks on several tasks beside the dense network's, from artifacts or from a table of results.

Nothing is measured anew: an artifact's own test accuracy is read from its manifest. Artifacts of `finetune --transfer` belong to
one network when they have the same parent, and to one task when they were trained on the same data. A network is compared with the
dense one it descends from (in a table: of its own model); where none was named, with the mean of those that were, as the paper does.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.transfer import Transferred, transferred
from sparsify_cli.recipes.verbs import TransferRecipe
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.transfer_results import SETTINGS, Key, Result, of_artifact, of_table
from sparsify_cli.values.report import Finding, Report

SOURCE = "Iofinova et al. 2022, arXiv 2111.13445"


def transfer(recipe: TransferRecipe, listener: Listener) -> Outcome:
    """Mean relative change of error of every sparse network."""
    del listener
    paths = {Path(path).resolve(): Path(path) for path in recipe.artifact}  # one that is named twice counts once
    results = [*(of_artifact(path) for path in paths.values()), *(of_table(Path(recipe.results)) if recipe.results else ())]
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
    _require_common(rows, beside)
    strangers = [_name(key) for key, of in rows.items() if _are_strangers(of, beside[key])]
    notes = (*_stranger_note(strangers), *_setting_notes(rows, beside), *_left_out(rows, found))
    return _outcome({key: Row(one, rows[key], beside[key]) for key, one in found.items() if one.changes}, notes)


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


@dataclass(frozen=True)
class Row:
    """A sparse network, what it comes from and what it is compared with.

    Args:
        told: changes of error.
        of: its results.
        dense: those of the dense network.
    """

    told: Transferred
    of: Sequence[Result]
    dense: Sequence[Result]

    @property
    def runs(self) -> int:
        """Results on tasks of both."""
        return sum(one.task in self.told.changes for one in self.of)

    def accuracy_of_dense(self, task: str = "") -> float:
        """Of the dense network on a task, or the mean over tasks of both."""
        by_task = _by_seed(self.dense)
        return by_task[task] if task else statistics.fmean(by_task[one] for one in self.told.changes)


def _outcome(found: Mapping[Key, Row], notes: tuple[str, ...]) -> Outcome:
    text = "Mean over tasks of (error - dense error) / dense error; negative is better."
    findings = [
        Finding(
            name="relative_error_change", value=one.mean, low=_sound(one.mean - one.error), high=_sound(one.mean + one.error),
            n=len(one.changes), better="lower", definition=text, scope=f"model:{_name(key)}", source=SOURCE,
            note="one standard error over tasks to both sides",
        )
        for key, one in ((key, row.told) for key, row in found.items())
    ]  # fmt: skip
    best = min(found, key=lambda key: found[key].told.mean)
    told = found[best].told
    tasks = f"mean of {len(told.changes)} tasks" if len(told.changes) > 1 else "on one task"
    return Outcome(
        "transfer",
        f"{_name(best)} transfers best: its error changes by {told.mean:+.3f} of the dense network's, {tasks}.",
        Report(tuple(findings), {"tasks": {_name(key): dict(row.told.changes) for key, row in found.items()}}),
        tables=(_summary(found), _by_task(found)),
        notes=notes,
    )


def _name(key: Key) -> str:
    trained, model, sparsity = key
    return " ".join(word for word in (model, f"{sparsity:.1%}".replace(".0%", "%"), trained) if word)


def _summary(found: Mapping[Key, Row]) -> Table:
    head = ("network", "dense", "accuracy", "change", "std error", "better", "runs")
    rows = [
        (
            _name(key), f"{row.accuracy_of_dense():.2%}", f"{row.told.accuracy:.2%}", f"{row.told.mean:+.3f}",
            "-" if math.isnan(row.told.error) else f"{row.told.error:.3f}", f"{row.told.better}/{len(row.told.changes)}", str(row.runs),
        )
        for key, row in found.items()
    ]  # fmt: skip
    return Table("error beside the dense network's, as a share of it", head, tuple(rows))


def _by_task(found: Mapping[Key, Row]) -> Table:
    tasks = dict.fromkeys(task for row in found.values() for task in row.told.changes)
    rows = [
        (_name(key), task, f"{row.accuracy_of_dense(task):.2%}", f"{row.told.accuracies[task]:.2%}", f"{row.told.changes[task]:+.3f}")
        for key, row in found.items()
        for task in tasks
        if task in row.told.changes
    ]
    return Table("by task", ("network", "task", "dense", "accuracy", "change"), tuple(rows))


def _sound(value: float) -> float | None:
    return None if math.isnan(value) else value


def _require_common(rows: Mapping[Key, Sequence[Result]], beside: Mapping[Key, Sequence[Result]]) -> None:
    """Refuse results of which none can be compared.

    Raises:
        BadRequest: as said.
    """
    if any({one.task for one in of} & {one.task for one in beside[key]} for key, of in rows.items()):
        return
    what = "No sparse network was measured on a task of the dense one, with the same part of it trained."
    raise BadRequest(what, "", "Train both on the same --data with the same --transfer, and name both.")


def _stranger_note(strangers: Sequence[str]) -> tuple[str, ...]:
    if not strangers:
        return ()
    return (f"{', '.join(strangers)}: compared with the mean of the dense networks named; none of them is what it descends from.",)


def _setting_notes(rows: Mapping[Key, Sequence[Result]], beside: Mapping[Key, Sequence[Result]]) -> tuple[str, ...]:
    """What differs in how networks were trained that are compared or averaged."""
    notes = []
    for key, of in rows.items():
        known = [one.settings for one in (*of, *beside[key]) if one.settings]
        differing = {name: sorted({one[name] for one in known}) for name in SETTINGS if len({one[name] for one in known}) > 1}
        if differing:
            listed = "; ".join(f"{name} {', '.join(values)}" for name, values in differing.items())
            notes.append(f"{_name(key)} and what it is compared with were not trained alike: {listed}.")
    return tuple(notes)


def _left_out(rows: Mapping[Key, Sequence[Result]], found: Mapping[Key, Transferred]) -> tuple[str, ...]:
    """Tasks without a dense result, and means over fewer tasks than others."""
    lost = [
        f"{_name(key)} on {task}"
        for key, of in rows.items()
        for task in dict.fromkeys(one.task for one in of)
        if task not in found[key].changes
    ]
    notes = [f"left out, for want of a dense result: {'; '.join(lost)}."] if lost else []
    most = max(len(one.changes) for one in found.values())
    short = [_name(key) for key, one in found.items() if 0 < len(one.changes) < most]
    if short:
        notes.append(f"{', '.join(short)}: measured on fewer tasks than others, so means are not of the same tasks.")
    return tuple(notes)
