"""What was prepared for erasing, read back: made for this network and data, or for an ancestor of it that has forgotten since (stale)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from sparsify_cli.contracts.unlearner import Memo
from sparsify_cli.errors import BadRequest, MissingContext
from sparsify_cli.stages.forgotten import unlearner_of, without_forgotten
from sparsify_cli.stages.lineage import ancestors
from sparsify_cli.stages.subject import Subject
from sparsify_cli.stages.write import data_identity
from sparsify_cli.training.prepared import MODEL, fingerprint, stamped
from sparsify_cli.values.artifact import MEMO, Artifact
from sparsify_cli.values.mask_file import read_tensors
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

LEVEL = "level.{}/"
"""Before the names of what was prepared for one of several networks."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Memos, one a level (a single network is level 1), and how old they are.

    Args:
        memos: level -> memo; None where the method keeps nothing.
        forgotten: samples that were forgotten since.
        moved: change of the weights since, relative to their norm.
        since: what they were made for, where that is an ancestor.
    """

    memos: dict[int, Memo | None]
    forgotten: int = 0
    moved: float = 0.0
    since: str = ""

    def of(self, level: int, before: nn.Module, now: nn.Module, masks: MaskSet, n: int) -> Memo | None:
        """The memo of a level for its network as it is now; stamped anew where the network has moved since in a way that is known.

        Args:
            level: of a nest; 1 for a single network.
            before: the level's network before this erasure.
            now: the same with what sparser levels have become.
            masks: of the level.
            n: training samples there are now.
        """
        memo = self.memos.get(level)
        if memo is None or MODEL not in memo:
            return memo
        made_for_it = self.since or torch.equal(memo[MODEL], fingerprint(before, masks))
        return stamped(memo, now, masks, n) if made_for_it and (self.since or level > 1) else memo

    def notes(self) -> tuple[str, ...]:
        """That it is stale, where it is."""
        if not self.since:
            return ()
        what = f"what was prepared is stale: it was made for {self.since}, before {self.forgotten:,} samples were forgotten"
        return (f"{what} and the weights moved by {self.moved:.2%}; prepare again when that grows.",)

    def findings(self) -> tuple[Finding, ...]:
        """Its age in numbers, where it has one."""
        if not self.since:
            return ()
        return (
            Finding(
                name="memo_forgotten_since", value=float(self.forgotten), unit="samples", definition="Samples forgotten since preparing."
            ),
            Finding(name="memo_moved_since", value=self.moved, unit="fraction", definition="Change of the weights since preparing."),
        )


def read_memo(folder: Path, subject: Subject, name: str) -> Prepared:
    """What an earlier `--prepare` stored, once it is sure that it read the training samples of this network or an ancestor.

    Raises:
        MissingContext: the artifact holds no memo.
        BadRequest: the memo was made on other training samples, or for another method than the one of this name.
    """
    artifact = Artifact.open(folder)
    path = artifact.verified(MEMO)
    if path is None:
        raise MissingContext(f"{folder} holds nothing that was prepared.", "", "Make it: sparsify unlearn MODEL --prepare --data ...")
    everything = replace(subject, artifact=None).samples("train")
    _require_method(folder, artifact, name)
    known = without_forgotten(everything, artifact)
    _require_same_data(folder, artifact, known)
    memos = by_level(read_tensors(path)[0])
    entry = artifact.manifest.get("parent") or {}
    if entry.get("sha256") == subject.checkpoint.source.sha256:
        gone = len(known) - len(subject.samples("train"))  # forgotten without a trace in the weights
        return Prepared(memos, gone, 0.0, str(subject.path)) if gone else Prepared(memos)
    return _aged(memos, subject, str(entry.get("sha256")), len(known))


def _require_method(folder: Path, artifact: Artifact, name: str) -> None:
    made = unlearner_of(artifact)
    if made and made != name:
        what = f"{folder} was prepared for {made}, and {name} is to forget."
        raise BadRequest(what, "What is prepared belongs to a method.", f"Use --unlearner {made}, or leave --memo out.")


def by_level(tensors: Memo) -> dict[int, Memo | None]:
    """Stored tensors by the level they belong to; without one they belong to the only network."""
    found: dict[int, Memo | None] = {}
    for name, tensor in tensors.items():
        level, slash, rest = name.removeprefix("level.").partition("/")
        number = int(level) if slash and name.startswith("level.") and level.isdecimal() else 0
        kept = found.setdefault(number or 1, {})
        if kept is not None:
            kept[rest if number else name] = tensor
    return found


def stored(memos: dict[int, Memo | None]) -> Memo:
    """What `by_level` reads back."""
    single = len(memos) == 1
    return {("" if single else LEVEL.format(level)) + name: t for level, memo in memos.items() for name, t in (memo or {}).items()}


def _aged(memos: dict[int, Memo | None], subject: Subject, sha256: str, known: int) -> Prepared:
    """The memo of an ancestor, where nothing but forgetting lies between; else as it is, for the method to refuse."""
    child = subject
    for parent in ancestors(subject):
        if child.artifact is None or child.artifact.verb != "unlearn" or _is_anew(child.artifact):
            break
        if parent.checkpoint.source.sha256 == sha256:
            return Prepared(memos, known - len(subject.samples("train")), moved(parent, subject), str(parent.path))
        child = parent
    return Prepared(memos)


def _is_anew(artifact: Artifact) -> bool:
    """Whether its network was trained anew, so that nothing prepared before holds."""
    method = artifact.manifest.get("recipe", {}).get("unlearner", "ssse")
    return str(method.get("name") if isinstance(method, dict) else method) == "retrain"


def moved(before: Subject, after: Subject) -> float:
    """Change of the weights, relative to their norm."""
    now = after.checkpoint.tensors
    pairs = [(t, now[name]) for name, t in before.checkpoint.tensors.items() if t.is_floating_point() and name in now]
    change = torch.stack([(new.double() - old.double()).square().sum() for old, new in pairs]).sum()
    norm = torch.stack([old.double().square().sum() for old, _ in pairs]).sum()
    return float((change / norm).sqrt())


def _require_same_data(folder: Path, artifact: Artifact, known: Samples) -> None:
    then, now = artifact.manifest.get("facts", {}).get("data_sha256"), data_identity(known)
    if then is not None and then != now:
        raise BadRequest(
            f"{folder} was prepared on other training samples: sha256 {str(then)[:12]}..., these have {now[:12]}....",
            "What was prepared counts every sample that stays.",
            "Give the same data, or prepare again.",
        )
