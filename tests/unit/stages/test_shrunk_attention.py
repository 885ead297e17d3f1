"""Taking heads and neurons out of transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.maths.fewer_heads import FewerHeads
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.permute import permuted
from tests.shrunk_networks import shapes, shrunk_alike, trained_looking, zero

HEADS, SIZE, WIDTH = 4, 3, 12


class Encoder(nn.Module):
    """Torch's encoder of two layers behind an embedding of patches."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=norm_first)
        self.into, self.out = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers of a sequence."""
        return self.out(self.encoder(self.into(x)).mean(1))


class Attending(nn.Module):
    """An attention that is called by hand, with its shares handed out and thrown away, without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.attend = nn.Linear(5, WIDTH), nn.MultiheadAttention(WIDTH, HEADS)
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers of a token."""
        x = self.into(x)
        y, _ = self.attend(x, x, value=x)
        return self.out(torch.relu(x + y))


def unread(attention: nn.MultiheadAttention, *heads: int) -> None:
    """Heads whose columns of `out_proj` are zero."""
    attention.out_proj.weight.data.view(WIDTH, HEADS, SIZE)[:, list(heads)] = 0


@pytest.mark.parametrize("norm_first", [True, False])
def test_unread_heads_and_zero_neurons_go(norm_first: bool):
    """Heads 0 and 2 of one layer and head 3 of the other; 3 of 16 neurons, constant, go into the bias of `linear2`."""
    module = trained_looking(Encoder(norm_first))
    one, two = module.encoder.layers
    unread(one.self_attn, 0, 2)
    unread(two.self_attn, 3)
    zero(one.linear1.weight, 1, 5, 6)
    after, found = shrunk_alike(module, 6, 5)
    assert shapes(after)["encoder.layers.0.self_attn.in_proj_weight"] == [3 * 2 * SIZE, WIDTH]
    assert shapes(after)["encoder.layers.1.self_attn.out_proj.weight"] == [WIDTH, 3 * SIZE]
    assert shapes(after)["encoder.layers.0.linear2.weight"] == [WIDTH, 13]
    assert (found.heads, found.channels) == (3, 3)
    assert isinstance(after.encoder.layers[0].self_attn, FewerHeads)


def test_a_head_of_constant_values_goes_into_the_bias():
    """Shares sum to one, so a head whose value rows are zero puts out its bias whatever it attends to."""
    module = trained_looking(Attending())
    module.attend.in_proj_weight.data.view(3, HEADS, SIZE, WIDTH)[2, 1] = 0
    after, found = shrunk_alike(module, 6, 5)
    assert found.heads == 1 and after.attend.heads == 3
    assert not torch.equal(after.attend.out_proj.bias, module.attend.out_proj.bias)


def test_channels_that_attention_makes_and_reads_go_too():
    """Channel 7 is zero in `into` and in `out_proj`, and read by nobody: the width shrinks, heads stay."""
    module = trained_looking(Attending())
    for layer in (module.into, module.attend.out_proj):
        zero(layer.weight, 7)
        layer.bias.data[7] = 0
    module.attend.in_proj_weight.data[:, 7] = 0
    after, found = shrunk_alike(module, 6, 5)
    assert shapes(after) == {
        "into.weight": [11, 5],
        "attend.in_proj_weight": [36, 11],
        "attend.out_proj.weight": [11, 12],
        "out.weight": [3, 11],
    }
    assert (found.heads, found.channels, after.attend.heads) == (0, 1, 4)


class Telling(Attending):
    """What is attended to is an output."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs and shares."""
        x = self.into(x)
        y, shares = self.attend(x, x, x)
        return torch.cat([self.out(y), shares.transpose(0, 1)], 2)


def test_heads_stay_where_their_shares_are_used():
    """A mean over all heads would be another one without some."""
    module = trained_looking(Telling())
    unread(module.attend, 0)
    assert shrunk_alike(module, 6, 5)[1].heads == 0


class Masked(Attending):
    """A mask for each head of each sample, and a padding mask."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers of a token; [tokens, n, 5]."""
        y = self.into(x)
        by_head = torch.zeros(1, 1, 1, dtype=x.dtype).expand(HEADS * x.size(1), x.size(0), x.size(0))
        hidden = {"attn_mask": by_head} if self.kind == "heads" else {"key_padding_mask": (x[:, :, 0] > 1e9).transpose(0, 1)}
        return self.out(torch.relu(self.attend(y, y, y, need_weights=False, **hidden)[0]))


@pytest.mark.parametrize("kind", ["heads", "padding"])
def test_heads_stay_where_masks_count_or_hide(kind: str):
    """A mask for each head has as many as there were; what padding hides torch computes otherwise."""
    module = trained_looking(Masked(kind))
    unread(module.attend, 0)
    assert shrunk_alike(module, 6, 5)[1].heads == 0


def test_what_is_viewed_after_attention_still_can_be():
    """With tokens first the outputs lie in memory as torch's own do."""

    class Viewed(Attending):
        def forward(self, x: Tensor) -> Tensor:
            y = self.into(x)
            return self.attend(y, y, y, need_weights=False)[0].view(-1, WIDTH)

    module = trained_looking(Viewed())
    unread(module.attend, 0)
    assert shrunk_alike(module, 6, 5)[1].heads == 1


def test_what_has_lost_heads_can_lose_more():
    """The network without heads is followed as the one with them was."""
    module = trained_looking(Encoder())
    unread(module.encoder.layers[0].self_attn, 1)
    after, _ = shrunk_alike(module, 6, 5)
    after.encoder.layers[0].self_attn.out_proj.weight.data[:, :SIZE] = 0
    again, found = shrunk_alike(after, 6, 5)
    assert found.heads == 1 and again.encoder.layers[0].self_attn.heads == 2


def test_masks_reach_attention_without_all_heads():
    """Padding and causal masks of torch's encoder mean the same afterwards, in eval mode without gradients."""
    module = trained_looking(Encoder())
    unread(module.encoder.layers[0].self_attn, 1)
    after, _ = shrunk_alike(module, 6, 5)
    x, causal = torch.randn(2, 6, WIDTH, dtype=torch.float64), torch.ones(6, 6).triu(1).bool()
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    with torch.no_grad():
        old, new = (net.encoder(x, mask=causal, src_key_padding_mask=padding) for net in (module, after))
    torch.testing.assert_close(new[~padding], old[~padding])


def test_a_residual_stream_behind_attention_can_be_reordered():
    """2:4 of the packed projection and of `linear1` retains more in another order of the width; outputs stay."""
    module = trained_looking(Encoder())
    names = [f"encoder.layers.0.{name}" for name in ("self_attn.in_proj_weight", "linear1.weight")]
    changed, told = permuted(module, names, Pattern.parse("2:4"), torch.randn(4, 6, 5, dtype=torch.float64))
    assert set(names) <= set(changed) and told.reordered[0].after > told.reordered[0].before and told.difference < 1e-10
