"""Claim: after fine-tuning, a network without nine tenths of its weights is as good as before, within 1.5 points.

Source: Han et al. 2015 (arXiv 1506.02626), section 3: retraining after magnitude pruning recovers the accuracy; here on
scikit-learn's digits, at 90 % zeros in one shot, also with 2:4 on top.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import FinetuneRecipe, PruneRecipe, TrainRecipe
from sparsify_cli.stages.finetune import finetune
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.subject import open_path
from sparsify_cli.stages.train import train
from sparsify_cli.values.mask_set import MaskSet

SLOW = [pytest.param((16, 10, seed), marks=pytest.mark.slow, id=f"width 16 seed {seed}") for seed in range(3)]
by_pattern = pytest.mark.parametrize("pattern", ["unstructured", "2:4"])


@pytest.fixture(scope="module", params=[pytest.param((8, 12, 0), id="width 8"), *SLOW])
def dense(request, tmp_path_factory):
    """A trained batch-norm network: its outcome and its folder."""
    width, epochs, seed = request.param
    folder = tmp_path_factory.mktemp("dense")
    recipe = TrainRecipe(arch="cnn", arch_arg=(f"width={width}",), data="digits", epochs=epochs, seed=seed, out=str(folder / "dense"))
    return train(recipe, Listener()), seed


def accuracy(outcome):
    """Test accuracy of what a verb made."""
    return outcome.report.get("accuracy").value


@by_pattern
def test_ninety_percent_recover(dense, pattern):
    """Fine-tuned at 90 % within 1.5 points of dense; masks, zeros and pattern are those of the pruning, to the weight."""
    start, seed = dense
    pruned = prune(PruneRecipe(model=str(start.artifact), sparsity=Fraction(9, 10), pattern=Pattern.parse(pattern)), Listener())
    tuned = finetune(FinetuneRecipe(model=str(pruned.artifact), epochs=10, seed=seed), Listener())
    assert accuracy(tuned) >= accuracy(start) - 0.015
    before, after = open_path(pruned.artifact), open_path(tuned.artifact)
    weights = {name: after.checkpoint.tensors[name] for name in after.masks}
    assert after.masks == before.masks and MaskSet.from_zeros(weights) <= after.masks
    assert after.masks.kept == after.masks.total - round(after.masks.total * Fraction(9, 10))
    if pattern == "2:4":
        groups = [mask.permute(0, 2, 3, 1).reshape(-1, 4) for mask in after.masks.values() if mask.ndim == 4 and mask.shape[1] % 4 == 0]
        assert len(groups) == 3
        assert max(int(group.sum(1).max()) for group in groups) <= 2


def test_fine_tuning_starts_where_pruning_ended(dense):
    """The numbers of both verbs are about the same networks: the dense ancestor's accuracy is the trained one's."""
    start, seed = dense
    pruned = prune(PruneRecipe(model=str(start.artifact), sparsity=Fraction(9, 10)), Listener())
    tuned = finetune(FinetuneRecipe(model=str(pruned.artifact), epochs=1, seed=seed), Listener())
    assert {one.report.get("accuracy", of="dense").value for one in (pruned, tuned)} == {accuracy(start)}
    assert torch.equal(open_path(pruned.artifact).masks["conv2.weight"], open_path(tuned.artifact).masks["conv2.weight"])
