"""Attention with fewer heads, against torch's own with the same number."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from sparsify_cli.maths.fewer_heads import FewerHeads, is_followed, with_fewer_heads

TRIANGLE = torch.ones(5, 5).triu(1).bool()
PADDING = torch.tensor([[False] * 5, [False, False, False, True, True], [False] * 4 + [True]])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": TRIANGLE, "is_causal": True},
        {"attn_mask": torch.linspace(-1, 1, 25).double().view(5, 5), "key_padding_mask": -9.0 * PADDING.double()},
        {"attn_mask": TRIANGLE.expand(12, 5, 5)},
        {"key_padding_mask": PADDING},
    ],
)
def test_with_all_its_heads_it_is_torchs_own(bias: bool, first: bool, weights: bool, masks: dict[str, torch.Tensor | bool]):
    """Outputs, and shares of attention, to rounding; float64, 4 heads of 3."""
    torch.manual_seed(0)
    own = nn.MultiheadAttention(12, 4, bias=bias, batch_first=first).double()
    ours = deepcopy(own)
    with_fewer_heads(ours)
    assert isinstance(ours, FewerHeads) and (ours.heads, ours.num_heads, ours.embed_dim) == (4, 4, 12)
    q, k = (torch.randn((3, 5, 12) if first else (5, 3, 12), dtype=torch.float64) for _ in range(2))
    expected, found = (net(q, k, k, need_weights=weights, **masks) for net in (own, ours))
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] is None) is not weights
    if weights:
        torch.testing.assert_close(found[1], expected[1])


def test_two_of_four_heads_are_the_sum_of_two():
    """Outputs of an attention are sums over heads: those of heads 1 and 3 are what is left when the others' columns are zero."""
    own = nn.MultiheadAttention(12, 4, batch_first=True).double()
    own.out_proj.weight.data.view(12, 4, 3)[:, [0, 2]] = 0
    ours, kept = deepcopy(own), torch.tensor([3, 4, 5, 9, 10, 11])
    rows = torch.cat([kept, kept + 12, kept + 24])
    ours.in_proj_weight, ours.in_proj_bias = nn.Parameter(own.in_proj_weight[rows]), nn.Parameter(own.in_proj_bias[rows])
    ours.out_proj.weight = nn.Parameter(own.out_proj.weight[:, kept])
    with_fewer_heads(ours)
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x, x, x)[0], own(x, x, x)[0])
    assert (ours.heads, ours.num_heads) == (2, 4) and ours(x, x, x, average_attn_weights=False)[1].shape == (2, 5, 5)


@pytest.mark.parametrize("extra", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 6}])
def test_attention_that_adds_something_is_not_followed(extra: dict[str, object]):
    """Keys that come from nowhere, or of another width, belong to no head that could go."""
    assert is_followed(nn.MultiheadAttention(12, 4)) and not is_followed(nn.MultiheadAttention(12, 4, **extra))
