"""What was forgotten stays away from every descendant."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsify_cli.stages.forgotten import forgotten_ids, without_forgotten
from sparsify_cli.values.artifact import Artifact, write_manifest
from sparsify_cli.values.samples import Samples

FOUR = Samples(torch.arange(4.0)[:, None], torch.tensor([0, 1, 2, 2]), ("a", "b", "c", "d"))


def artifact(name: str, parent: str | None = None, forgotten: list[str] | None = None) -> Artifact:
    """An artifact of three lines that descends from another."""
    folder = Path(name)
    folder.mkdir()
    entry = {"path": f"../{parent}", "sha256": "0"} if parent else None
    facts = {"forgotten_ids": forgotten} if forgotten else {}
    weights = {"file": "model.safetensors", "sha256": "0"}
    write_manifest(folder, {"status": "complete", "verb": "unlearn", "parent": entry, "weights": weights, "facts": facts})
    return Artifact.open(folder)


def test_ids_add_up_over_the_lineage() -> None:
    """A child without ids of its own has those of its parent and grandparent; a parent that is gone ends the walk."""
    artifact("one", "gone", ["a"])
    artifact("two", "one", ["b", "c"])
    assert forgotten_ids(artifact("three", "two")) == {"a", "b", "c"}
    assert forgotten_ids(None) == frozenset()


def test_a_circle_of_parents_ends() -> None:
    """Two artifacts that name each other as parents are read once each."""
    artifact("left", "right", ["a"])
    assert forgotten_ids(artifact("right", "left", ["b"])) == {"a", "b"}


def test_forgotten_samples_are_left_out() -> None:
    """The others stay in order; a class that is gone as a whole is still counted."""
    left = without_forgotten(FOUR, artifact("one", None, ["c", "d", "elsewhere"]))
    assert (left.ids, left.targets.tolist(), left.outputs) == (("a", "b"), [0, 1], 3)
    assert without_forgotten(FOUR, artifact("two")) is FOUR
