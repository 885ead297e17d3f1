"""`ticket`: does a winning ticket really win? Accuracies of trained artifacts, several seeds each, and the verdict.

Nothing is measured anew: each artifact's own test accuracy is read from its manifest. All must speak of the same test data.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.ticket import Verdict, verdict
from sparsify_cli.recipes.verbs import TicketRecipe
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.training_log import read_log
from sparsify_cli.values.artifact import Artifact
from sparsify_cli.values.report import Finding, Report

NEEDED = ("dense", "ticket", "reinit", "random")
ROLES = (*NEEDED, "finetuned")
SUSPECT = 0.8
"""Overlap of the largest weights before and after training from which little was learnt."""

WORDS = {
    "jackpot": "Jackpot: the ticket reaches the best dense network and beats its masks with other weights.",
    "secondary prize": "A secondary prize: no jackpot, but not below pruning and fine-tuning.",
    "no ticket": "No ticket: its masks do as well with other weights, or random ones with its counts do.",
    "no prize": "No prize: it does not reach the best dense network, and is not known to reach pruning and fine-tuning.",
}


@dataclass(frozen=True)
class Told:
    """What artifacts of one role say.

    Args:
        accuracies: one an artifact.
        samples: test samples.
        sparsity: of the network, fraction.
        overlaps: of the largest weights, where it was told.
    """

    accuracies: tuple[float, ...]
    samples: int
    sparsity: float
    overlaps: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float:
        """Largest distance of one from the mean."""
        return max(abs(value - self.mean) for value in self.accuracies)


def ticket(recipe: TicketRecipe, listener: Listener) -> Outcome:
    """The verdict on artifacts that were trained for it."""
    del listener
    named = {role: getattr(recipe, role) for role in ROLES}
    missing = [role for role in NEEDED if not named[role]]
    if missing:
        raise BadRequest(f"No artifact was named for {', '.join('--' + role for role in missing)}.", "A verdict compares all of them.")
    _require_apart(named)
    told = {role: _told(paths) for role, paths in named.items() if paths}
    if len({one.samples for one in told.values()}) > 1:
        counts = ", ".join(f"{role} {one.samples:,}" for role, one in told.items())
        raise BadRequest(f"The artifacts were measured on other test data ({counts} samples).", "", "Train them on the same data.")
    sparse = {role: one.sparsity for role, one in told.items() if role != "dense"}
    if max(sparse.values()) - min(sparse.values()) > 0.005:
        listed = ", ".join(f"{role} {value:.2%}" for role, value in sparse.items())
        raise BadRequest(f"The artifacts differ in sparsity ({listed}).", "", "Train them with the same --sparsity.")
    means = {role: one.mean for role, one in told.items()}
    found = verdict(**means)
    return _outcome(told, found)


def _require_apart(named: Mapping[str, Sequence[str]]) -> None:
    """Refuse an artifact in two roles, and branches that are none.

    Raises:
        BadRequest: as said.
    """
    seen: dict[Path, str] = {}
    for role, paths in named.items():
        for path in paths:
            if (there := Path(path).resolve()) in seen:
                raise BadRequest(f"{path} was named as --{seen[there]} and as --{role}.", "", "Each role needs networks of its own.")
            seen[there] = role
    for role in ("ticket", "reinit", "random"):
        for path in named[role]:
            regime = Artifact.open(Path(path)).manifest.get("recipe", {}).get("regime")
            branch = regime.get("branch", "ticket") if isinstance(regime, Mapping) and regime.get("name") == "imp" else regime
            if branch not in (role, "imp" if role == "ticket" else role):
                raise BadRequest(
                    f"{path} is no {role}: it was trained with {branch or 'no'} regime.",
                    "",
                    f"--{role} is a run of --regime imp with regime.branch={role}.",
                )


def _told(paths: Sequence[str]) -> Told:
    read = [_number(Artifact.open(Path(path)), "accuracy") for path in paths]
    sparsity = statistics.fmean(_number(Artifact.open(Path(path)), "sparsity")[0] for path in paths)
    overlaps = [float(entry["share"]) for path in paths for entry in read_log(Path(path)) if entry.get("event") == "overlap"]
    return Told(tuple(value for value, _ in read), min(n for _, n in read), sparsity, tuple(overlaps))


def _number(artifact: Artifact, name: str) -> tuple[float, int]:
    numbers: list[dict[str, Any]] = artifact.manifest.get("numbers", [])
    for one in numbers:
        if (one["name"], one["of"], one["scope"]) == (name, "compressed", "all"):
            return float(one["value"]), int(one["n"])
    raise BadRequest(f"{artifact.folder} has no test {name} in its manifest.", "", "Name artifacts of train or finetune.")


def _outcome(told: dict[str, Told], found: Verdict) -> Outcome:
    rows = tuple((role, f"{one.mean:.2%}", f"{one.spread:.2%}", str(len(one.accuracies))) for role, one in told.items())
    text = "Mean test accuracy over the artifacts that were named."
    findings = [
        Finding(name=f"accuracy_{role}", value=one.mean, unit="fraction", n=one.samples, better="higher", definition=text)
        for role, one in told.items()
    ]
    conditions = (
        ("reaches the best dense network (within 0.3 points)", found.reaches_dense),
        ("beats its masks with other weights, and random masks (by 1 point)", found.beats_masks),
        ("random masks are worse than dense there: the sparsity is not trivial", found.is_sparse),
    )
    return Outcome(
        "ticket",
        WORDS[found.name],
        Report(tuple(findings), {"verdict": found.name}),
        tables=(
            Table("accuracy on test data", ("", "mean", "largest distance", "artifacts"), rows),
            Table("conditions", ("", ""), tuple((name, "yes" if holds else "no") for name, holds in conditions)),
        ),
        notes=_notes(told),
        facts={"verdict": found.name},
    )


def _notes(told: dict[str, Told]) -> tuple[str, ...]:
    notes = []
    few = [role for role, one in told.items() if len(one.accuracies) < 3]
    if few:
        notes.append(f"fewer than three artifacts each for {', '.join(few)}: the verdict may be that of the seeds.")
    overlaps = told["ticket"].overlaps
    if overlaps and max(overlaps) > SUSPECT:
        notes.append(f"{max(overlaps):.0%} of the largest weights were the largest before training: the rate is low, or training short.")
    if "finetuned" not in told:
        notes.append("without --finetuned there is no secondary prize.")
    return tuple(notes)
