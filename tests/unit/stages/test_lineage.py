"""Lineage: parents found by path, checked by hash, up to the dense ancestor."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import MissingContext, MissingFile, UnreadableFile
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.lineage import ancestors, dense_ancestor
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.subject import open_path
from tests.strategies import tiny_mlp


def pruned_from(model, sparsity):
    """A pruned artifact's folder."""
    return prune(PruneRecipe(model=str(model), sparsity=Fraction(sparsity)), Listener()).artifact


@pytest.fixture
def family():
    """A dense file, pruned by half, pruned further."""
    torch.save(tiny_mlp().state_dict(), "model.pt")
    first = pruned_from("model.pt", "0.5")
    return Path("model.pt"), first, pruned_from(first, "0.75")


def test_the_chain_is_followed_to_the_root(family):
    """Nearest first; the file at the root is the dense ancestor of both artifacts."""
    dense, first, second = family
    assert [parent.path for parent in ancestors(open_path(second))] == [first, dense]
    assert dense_ancestor(open_path(second)).path == dense_ancestor(open_path(first)).path == dense
    assert torch.equal(dense_ancestor(open_path(second)).checkpoint.tensors["0.weight"], tiny_mlp().state_dict()["0.weight"])


def test_a_file_has_no_parents(family):
    """A plain file descends from nothing."""
    assert list(ancestors(open_path(family[0]))) == []
    with pytest.raises(MissingContext, match="no dense ancestor"):
        dense_ancestor(open_path(family[0]))


def test_a_parent_that_is_gone(family):
    """Both paths are named."""
    family[0].unlink()
    with pytest.raises(MissingFile, match=r"The parent of runs/001-prune-model is gone: .*model\.pt"):
        dense_ancestor(open_path(family[2]))


def test_a_parent_that_changed(family):
    """The same name with other weights is not the parent."""
    torch.save(tiny_mlp(seed=1).state_dict(), "model.pt")
    with pytest.raises(UnreadableFile, match=r"is not what runs/001-prune-model was made from"):
        dense_ancestor(open_path(family[2]))


def test_a_project_can_be_moved(family, monkeypatch):
    """Files and runs moved together still know each other, and see each other as from the new place."""
    Path("moved").mkdir()
    for name in ("model.pt", "runs"):
        shutil.move(name, "moved")
    monkeypatch.chdir("moved")
    assert [parent.path for parent in ancestors(open_path(family[2]))] == [family[1], family[0]]


def test_the_name_of_the_result(family):
    """Numbers go up, the verb is said once, and the model's name stays."""
    assert [path.name for path in family] == ["model.pt", "001-prune-model", "002-prune-model"]
