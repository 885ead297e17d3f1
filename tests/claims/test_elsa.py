"""Claim: several sparse networks live in one, and each is taken out exactly as it was trained, by masking alone.

Source: Halvachi, Peste, Alistarh, Lampert 2023, ELSA (arXiv 2312.06872), partial weight freezing: weights of the sparser
network are frozen while the denser one is trained around them. That batch norm and biases are kept once a level, which
makes extraction exact, is ours; the paper's treatment could not be verified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.verbs import EmbedRecipe, ExtractRecipe, TrainRecipe
from sparsify_cli.stages import embed as embed_stage
from sparsify_cli.stages.embed import logits_digest
from sparsify_cli.stages.extract import extract
from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.subject import Subject, open_path
from sparsify_cli.stages.train import train
from sparsify_cli.values.mask_set import MaskSet

LEVELS = (Fraction(95, 100), Fraction(8, 10), Fraction(1, 2), Fraction(0))
OPTIMIZERS = {"sgd": {}, "adamw": {"optimizer": "adamw", "lr": 0.005, "weight_decay": 0.05}}
by_level = pytest.mark.parametrize("level", range(1, len(LEVELS) + 1))


@dataclass(frozen=True)
class Family:
    """A dense network, its embedded artifact, and every level's network as training left it, recorded on the way."""

    dense: Subject
    embedded: Subject
    networks: tuple[dict[str, torch.Tensor], ...]
    folder: Path

    def extracted(self, level: int) -> Subject:
        """The level as the verb takes it out, from its own folder."""
        out = self.folder / f"level{level}"
        if not out.exists():
            extract(ExtractRecipe(model=str(self.embedded.path), level=str(level), out=str(out)), Listener())
        return open_path(out)

    def accuracy(self, network: Subject) -> float:
        """Test accuracy on the digits."""
        return float(predict(network.module(), network.samples("test")).correct.double().mean())


@pytest.fixture(scope="module", params=["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def family(request, tmp_path_factory):
    """Three epochs a level on the digits, a batch-norm network of 8,456 prunable weights, under each optimizer."""
    folder = tmp_path_factory.mktemp(request.param)
    dense = train(TrainRecipe(arch="cnn", arch_arg=("width=8",), data="digits", epochs=6, out=str(folder / "dense")), Listener())
    recorded, real = [], embed_stage.trained

    def trained(*args, **options):
        result = real(*args, **options)
        recorded.append({name: tensor.clone() for name, tensor in result.tensors.items()})
        return result

    recipe = EmbedRecipe(model=str(dense.artifact), levels=LEVELS, epochs=3, out=str(folder / "embedded"), **OPTIMIZERS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed_stage, "trained", trained)
        embed_stage.embed(recipe, Listener())
    return Family(open_path(folder / "dense"), open_path(folder / "embedded"), tuple(recorded), folder)


@by_level
def test_an_extracted_level_is_the_network_that_was_trained(family, level):
    """E1.1: the largest difference of any logit on the test split is 0, and the manifest's proof is the hash of those logits."""
    found = family.extracted(level)
    alive = found.changed(found.checkpoint.with_tensors(family.networks[level - 1]), found.masks)
    test = found.samples("test")
    difference = (predict(found.module(), test).logits - predict(alive.module(), test).logits).abs().max()
    assert float(difference) == 0
    assert logits_digest(found) == family.embedded.artifact.manifest["facts"]["logits_sha256"][level - 1]
    assert all(torch.equal(found.checkpoint.tensors[name], tensor) for name, tensor in family.networks[level - 1].items())


def test_different_levels_are_different_networks(family):
    """The comparison has teeth: no two levels answer alike."""
    assert len({logits_digest(family.extracted(level)) for level in range(1, 5)}) == 4


@by_level
def test_counts_are_exact(family, level):
    """E1.1: a level has exactly n - round(n s) weights that are not zero, in its masks and in its tensors."""
    found, masks = family.extracted(level), family.embedded.nest.masks(level)
    zeros = round(masks.total * LEVELS[level - 1])
    assert masks.total == 8456
    assert masks.kept == masks.total - zeros
    assert sum(int(found.checkpoint.tensors[name].count_nonzero()) for name in masks) == masks.kept


def test_masks_are_nested(family):
    """E1.1: every weight of a sparser level belongs to every denser one, the densest is everything."""
    masks = [family.embedded.nest.masks(level) for level in range(1, 5)]
    assert all(small <= large and small.kept < large.kept for small, large in pairwise(masks))
    assert masks[-1].kept == masks[-1].total


def test_frozen_weights_are_bit_identical(family):
    """E1.5: through every later stage, under momentum and under AdamW with decay 0.05, no bit of a sparser level's weights moves."""
    for level, (before, after) in enumerate(pairwise(family.networks), 1):
        for name, mask in family.embedded.nest.masks(level).items():
            frozen = [network[name][mask].view(torch.int32) for network in (before, after, family.networks[-1])]
            assert torch.equal(frozen[0], frozen[1]) and torch.equal(frozen[0], frozen[2])
            assert not torch.equal(before[name], after[name])


@by_level
def test_one_file_holds_all_levels(family, level):
    """The stored weights, masked, are the level's: nothing but side state is kept apart."""
    stored, masks = family.embedded.checkpoint.tensors, family.embedded.nest.masks(level)
    applied = masks.apply({name: stored[name] for name in masks})
    assert all(torch.equal(applied[name], family.networks[level - 1][name]) for name in masks)
    assert set(family.embedded.nest.side[level - 1]) == set(stored) - set(masks)


def with_side_of(family, level, side):
    """A level's weights with other batch norm and biases."""
    found = family.extracted(level)
    return replace(found, checkpoint=found.checkpoint.with_tensors({**found.checkpoint.tensors, **side}))


def test_the_dense_models_batch_norm_ruins_a_sparse_level(family):
    """E1.2: with the dense level's side state the 95 % level collapses; the 80 % level loses less."""
    dense_side = family.embedded.nest.side[-1]
    own = [family.accuracy(family.extracted(level)) for level in (1, 2)]
    shared = [family.accuracy(with_side_of(family, level, dense_side)) for level in (1, 2)]
    assert own[0] - shared[0] > 0.3
    assert own[0] - shared[0] > own[1] - shared[1]


def test_the_levels_are_worth_having(family):
    """After three epochs a level the 80 % network is within four points of the network all levels start from; all are far above chance."""
    dense = family.accuracy(family.dense)
    found = [family.accuracy(family.extracted(level)) for level in range(1, 5)]
    assert min(found) > 0.5
    assert min(found[1:]) > dense - 0.04


def test_the_dense_parent_is_untouched(family):
    """Embedding writes a new artifact; masks of the stored file are those of its densest level, which prunes nothing."""
    assert family.embedded.masks == MaskSet()
    assert family.dense.checkpoint.source.sha256 == family.embedded.artifact.manifest["parent"]["sha256"]
