"""The support of a plain file that was pruned elsewhere: exact zeros are taken as pruned, so that they stay zero.

A trained dense network holds next to no exact zeros, so a share of them is the sign of pruning. A tensor that is zero
everywhere is more likely a new layer that was never trained; it stays free.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsify_cli.values.mask_set import MaskSet

SHARE = 0.05
"""Fraction of exact zeros (outside all-zero tensors) from which a file counts as pruned."""


def pruned_support(weights: Mapping[str, Tensor]) -> MaskSet:
    """Masks of every prunable tensor of a pruned file; none for a dense one.

    Args:
        weights: prunable tensors by name.
    """
    trained = {name: weight for name, weight in weights.items() if bool((weight != 0).any())}
    zeros, total = (sum(f(weight) for weight in trained.values()) for f in (_zeros, Tensor.numel))
    if zeros < SHARE * max(1, total):
        return MaskSet()
    free = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items() if name not in trained}
    return MaskSet({**MaskSet.from_zeros(trained), **free})


def _zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())
