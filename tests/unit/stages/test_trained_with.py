"""What methods of forgetting take from how a network was trained, and what they are told to differ in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sparsify_cli.recipes.option import Choice
from sparsify_cli.stages.subject import Subject
from sparsify_cli.stages.trained_with import as_trained, objective_of, recipe_notes, unknown_notes
from sparsify_cli.unlearners.retrain import Retrain
from sparsify_cli.unlearners.ssse import Ssse
from sparsify_cli.values.artifact import Artifact, write_manifest
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet

SAME = {"epochs": 30, "lr": 0.05, "batch_size": 64, "momentum": 0.9, "weight_decay": 5e-4, "warmup": "0ep", "regime": "fixed"}


def made(name: str, verb: str, recipe: Mapping[str, Any], parent: str = "") -> Subject:
    """A network whose manifest says how it was made."""
    Path(name).mkdir()
    entry = {"path": f"../{parent}", "sha256": "0"} if parent else None
    weights = {"file": "model.safetensors", "sha256": "0"}
    write_manifest(Path(name), {"status": "complete", "verb": verb, "parent": entry, "weights": weights, "recipe": recipe})
    return Subject(Checkpoint({}, Source(name, "")), MaskSet(), artifact=Artifact.open(Path(name)))


def test_weight_decay_is_that_of_the_last_training() -> None:
    """Pruning trains nothing; what is given wins; methods that do not ask are told nothing."""
    made("dense", "train", {**SAME, "weight_decay": 0.01})
    pruned = made("pruned", "prune", {}, "dense")
    tuned = made("tuned", "finetune", {**SAME, "weight_decay": 0.02, "epochs": 2}, "pruned")
    assert as_trained(Choice("ssse"), pruned).options == {"weight_decay": 0.01}
    assert [as_trained(Choice(name), tuned).options["weight_decay"] for name in ("ssse", "finetune", "scrub", "salun")] == [0.02] * 4
    assert as_trained(Choice("ssse", {"weight_decay": 0.0}), tuned).options == {"weight_decay": 0.0}
    assert as_trained(Choice("gradient-ascent"), tuned).options == as_trained(Choice("retrain"), tuned).options == {}


def test_weight_decay_of_other_trainings() -> None:
    """Training anew has its own; decay apart from the gradient is no part of what is minimised; one shot is no training."""
    made("dense", "train", {**SAME, "weight_decay": 0.01})
    anew = made("anew", "unlearn", {"unlearner": {"name": "retrain", "weight_decay": 0.03}}, "dense")
    assert objective_of(anew.artifact)["weight_decay"] == 0.03
    assert objective_of(made("erased", "unlearn", {"unlearner": "ssse"}, "dense").artifact)["weight_decay"] == 0.01
    assert objective_of(made("quick", "embed", {**SAME, "epochs": 0, "weight_decay": 0.5}, "dense").artifact)["weight_decay"] == 0.01
    assert objective_of(made("adamw", "train", {**SAME, "optimizer": "adamw"}).artifact)["weight_decay"] == 0


def test_where_nothing_is_recorded_it_is_said() -> None:
    """A plain file: the default, and a note; none where it is given, or recorded."""
    plain = Subject(Checkpoint({}, Source("plain.pt", "")), MaskSet())
    assert as_trained(Choice("ssse"), plain).options == {}
    [note] = unknown_notes(Choice("ssse"), Ssse(), plain)
    assert "with which weight_decay plain.pt was trained: 0.0 is taken" in note
    assert not list(unknown_notes(Choice("ssse", {"weight_decay": 0.1}), Ssse(weight_decay=0.1), plain))
    assert not list(unknown_notes(Choice("ssse"), Ssse(), made("dense", "train", SAME)))


def test_training_anew_by_the_same_recipe_needs_no_note() -> None:
    """Nor other methods, nor a network of which nothing is recorded."""
    dense = made("dense", "train", SAME)
    assert not list(recipe_notes(Retrain(), "retrain", dense))
    assert not list(recipe_notes(Ssse(), "ssse", made("other", "train", {**SAME, "epochs": 2})))
    assert not list(recipe_notes(Retrain(), "retrain", Subject(Checkpoint({}, Source("plain.pt", "")), MaskSet())))


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (
            {"epochs": 5, "lr": 0.1},
            "epochs 30 instead of 5, lr 0.05 instead of 0.1 (the same: --set unlearner.epochs=5 --set unlearner.lr=0.1)",
        ),
        ({"weight_decay": 0.0}, "weight_decay 0.0005 instead of 0.0 (the same: --set unlearner.weight_decay=0.0)"),
        ({"warmup": "0.05run", "augment": "flip"}, "it leaves out warm-up 0.05run, augment flip (sparsify train --without"),
        ({"regime": {"name": "gmp", "every": "50it"}, "optimizer": "adam"}, "it leaves out optimizer adam, regime gmp ("),
    ],
)
def test_what_differs_is_named_in_one_note(recorded: dict[str, Any], said: str) -> None:
    """Options with the words that make them equal, and what it does not have."""
    [note] = recipe_notes(Retrain(), "retrain", made("dense", "train", {**SAME, **recorded}))
    assert note.startswith("retrain is not how dense was trained: ") and said in note


def test_what_came_after_training_is_left_out_too() -> None:
    """Pruned and fine-tuned: neither is done again."""
    made("dense", "train", SAME)
    made("pruned", "prune", {}, "dense")
    [note] = recipe_notes(Retrain(), "retrain", made("tuned", "finetune", SAME, "pruned"))
    assert "it leaves out prune, finetune (" in note
