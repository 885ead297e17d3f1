"""Lineage: the chain of parents of an artifact, followed by path and checked by hash, up to the dense ancestor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sparsify_cli.errors import MissingContext, MissingFile, UnreadableFile
from sparsify_cli.stages.subject import Subject, open_path
from sparsify_cli.values.ranges import is_url


def ancestors(subject: Subject) -> Iterator[Subject]:
    """The parents of a subject, nearest first; each knows the architecture and data of its child.

    Raises:
        MissingFile: a parent is no longer where the manifest says.
        UnreadableFile: what is there now is not what the child was made from.
    """
    while (parent := _parent(subject)) is not None:
        yield parent
        subject = parent


def kin(subject: Subject) -> Iterator[Subject]:
    """The parents that were trained for the same task, nearest first.

    Raises:
        MissingFile, UnreadableFile: as `ancestors`.
    """
    child = subject
    for parent in ancestors(subject):
        if _is_transferred(child):
            return
        yield parent
        child = parent


def dense_ancestor(subject: Subject) -> Subject:
    """The nearest ancestor that nothing was pruned from; a checkpoint file at the root counts as dense, whatever it holds.

    Raises:
        MissingContext: there is none, or it was trained for another task.
    """
    last = subject
    for parent in kin(subject):
        if not parent.masks or parent.artifact is None:
            return parent
        last = parent
    if _is_transferred(last):
        raise MissingContext(
            f"The dense ancestor of {subject.path} was trained for another task.",
            f"{last.path} got a new classifier (--transfer).",
            "Compare with a dense network of this task: --dense ARTIFACT, or --teacher ARTIFACT to learn from it.",
        )
    raise MissingContext(
        f"{subject.path} has no dense ancestor.",
        _origin(last),
        "Name what to compare with: --dense MODEL; or ask about a dense network itself: --sparsities 0.5,0.9, or --forecast.",
    )


def _origin(last: Subject) -> str:
    """Why the line of ancestors ends without a dense one."""
    entry = last.artifact.manifest.get("parent") if last.artifact else None
    return f"It was taken out of {entry['path']}." if entry else "It was made from a sparse network or from scratch."


def _is_transferred(subject: Subject) -> bool:
    recipe = subject.artifact.manifest.get("recipe", {}) if subject.artifact else {}
    return str(recipe.get("transfer", "none")) != "none"


def _parent(subject: Subject) -> Subject | None:
    entry = subject.artifact.manifest.get("parent") if subject.artifact else None
    if subject.artifact is None or entry is None:
        return None
    if is_url(entry["path"]):  # elsewhere, and perhaps large: the line ends here
        return None
    path = (subject.artifact.folder / entry["path"]).resolve()
    if not path.exists():
        raise MissingFile(
            f"The parent of {subject.path} is gone: {path}.",
            "Its manifest names it as what it was made from.",
            "Put it back, or compare another artifact.",
        )
    parent = open_path(_shown(path))
    if parent.checkpoint.source.sha256 != entry["sha256"]:
        raise UnreadableFile(
            f"{path} is not what {subject.path} was made from.",
            "Its sha256 differs from the one in the manifest.",
            "Put the original back.",
        )
    fitting = subject.architecture.fitting(parent.checkpoint.tensors) if subject.architecture else None
    return replace(parent, architecture=parent.architecture or fitting, data=parent.data or subject.data)


def _shown(path: Path) -> Path:
    """The path as a person would type it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
