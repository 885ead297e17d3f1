"""What exact zeros in a plain file mean."""

from __future__ import annotations

import torch

from sparsify_cli.stages.support import pruned_support


def test_a_dense_file_has_no_support():
    """A stray zero or two is no sign of pruning."""
    weight = torch.ones(10, 10)
    weight[0, :2] = 0
    assert not pruned_support({"a": weight})


def test_a_pruned_file_masks_every_prunable_tensor():
    """Half of one tensor is zero: its zeros are masked, and the tensor without zeros counts in the total."""
    half = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    masks = pruned_support({"a": half, "b": torch.ones(2, 2)})
    assert masks["a"].tolist() == [[False, True], [False, True]]
    assert bool(masks["b"].all())
    assert float(masks.sparsity) == 0.25


def test_a_new_layer_is_no_pruned_layer():
    """A tensor that is zero everywhere stays free, whatever the rest says."""
    assert not pruned_support({"head": torch.zeros(4, 4), "a": torch.ones(4, 4)})
    sparse = torch.eye(4)
    assert bool(pruned_support({"head": torch.zeros(4, 4), "a": sparse})["head"].all())
