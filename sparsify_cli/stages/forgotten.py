"""What a network has been made to forget: ids of training samples that no later verb may show it again.

Every manifest carries the ids forgotten so far; for one that does not, the manifests of its parents are read too (paths and
hashes only, no tensors: what lies there now may be another network). Ids decide: samples of other data that happen to have the
same ids stay away as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sparsify_cli.errors import SparsifyError
from sparsify_cli.values.artifact import Artifact, is_artifact
from sparsify_cli.values.samples import Samples

FORGOTTEN = "forgotten_ids"
"""The fact of a manifest that lists them."""


def forgotten_ids(artifact: Artifact | None) -> frozenset[str]:
    """Ids forgotten by an artifact or any of its ancestors; a parent that is gone, damaged or another one now ends the walk."""
    listed = (one.manifest.get("facts", {}).get(FORGOTTEN) for one in lineage(artifact))
    return frozenset(str(name) for ids in listed if isinstance(ids, list) for name in ids)


def without_forgotten(samples: Samples, artifact: Artifact | None, left_out: frozenset[str] = frozenset()) -> Samples:
    """Training samples a network may still be shown; the same object when nothing was forgotten or left out.

    The number of classes stays what it was, also when the last class is gone as a whole.
    """
    gone = forgotten_ids(artifact) | left_out
    stay = [position for position, name in enumerate(samples.ids) if name not in gone]
    if len(stay) == len(samples):
        return samples
    return replace(samples.take(stay), classes=samples.classes or tuple(map(str, range(samples.outputs))))


def unlearner_of(artifact: Artifact) -> str:
    """The method of forgetting that an artifact was made with, or prepared for; empty where its recipe names none."""
    chosen = (artifact.manifest.get("recipe") or {}).get("unlearner") or {}
    return str(chosen.get("name", "") if isinstance(chosen, dict) else chosen)


def lineage(artifact: Artifact | None) -> Iterator[Artifact]:
    """The artifact and its ancestors, as far as they are artifacts that can be read."""
    seen = set()
    while artifact is not None and (here := artifact.folder.resolve()) not in seen:
        yield artifact
        seen.add(here)
        artifact = _parent(artifact)


def _parent(artifact: Artifact) -> Artifact | None:
    entry = artifact.manifest.get("parent") or {}
    folder = (artifact.folder / str(entry["path"])).resolve() if entry else None
    if folder is None or not is_artifact(folder):
        return None
    try:
        parent = Artifact.open(folder)
    except SparsifyError:
        return None
    weights = parent.manifest.get("weights") or {}
    return parent if weights.get("sha256") == entry.get("sha256") else None
