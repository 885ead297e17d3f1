"""What was prepared, as it comes back: where it lies in memory."""

from __future__ import annotations

import torch
from torch import nn

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.training.prepared import LINE, checked, stamped
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples


def test_tensors_are_copied_to_where_products_round_alike_unless_told_otherwise():
    """Of two that begin four bytes off, one may stay there; the other comes back equal, at the beginning of a line."""
    model = nn.Linear(2, 2)
    off = torch.zeros(2, 2 * LINE + 1)[:, 1:].unbind()[0]
    assert off.data_ptr() % LINE
    memo = stamped({"stays": off, "moves": off}, model, MaskSet(), 2, how="anyhow")
    samples = [Samples(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), (name,)) for name in "abc"]
    found = checked(memo, {"stays"}, model, Request(*samples), "Fisher", how="anyhow", mapped=("stays",))
    assert found["stays"].data_ptr() == off.data_ptr()
    assert found["moves"].data_ptr() % LINE == 0
    assert torch.equal(found["moves"], off)
