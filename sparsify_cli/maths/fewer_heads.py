"""Torch's attention with fewer heads than its width would have: what is left when heads are taken out.

`nn.MultiheadAttention` computes the size of a head from the width and the number of heads. Here it is told, so that the packed
projection [3 x heads x size, width] and `out_proj` [width, heads x size] may be of any number of heads; all else is the same:

    softmax(q k^T / sqrt(size) + mask) v for each head, side by side, times out_proj

Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2; heads that can go: Michel et al. 2019, arXiv 1905.10650.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class FewerHeads(nn.MultiheadAttention):
    """An attention whose tensors tell how many heads it has; made of one that is there, see `with_fewer_heads`."""

    @property
    def heads(self) -> int:
        """How many there are."""
        return int(self.in_proj_weight.shape[0] // 3 // self.head_dim)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs, and the shares of attention if they are needed; arguments are those of `nn.MultiheadAttention`."""
        del is_causal  # a hint about the mask that comes with it
        alone = query.dim() == 2
        inputs = [x.unsqueeze(0) if alone else x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = self._projected(inputs)
        mask = self._mask(key_padding_mask, attn_mask, q)
        shares = None
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim) + (0.0 if mask is None else mask)
            shares = functional.dropout(scores.softmax(-1), dropout)
            mixed = shares @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out = functional.linear(mixed.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if shares is not None and average_attn_weights:
            shares = shares.mean(1)
        if alone:
            return out.squeeze(0), None if shares is None else shares.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1).contiguous()), shares

    def _projected(self, inputs: list[Tensor]) -> list[Float[Tensor, "n heads tokens size"]]:
        weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        made = (functional.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True))
        return [one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in made]

    def _mask(self, padding: Tensor | None, mask: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one that is added to scores [n, heads, queries, keys]; -inf hides."""
        found = None
        for one in (padding, mask):
            if one is None:
                continue
            added = torch.zeros_like(one, dtype=like.dtype).masked_fill(one, -math.inf) if one.dtype == torch.bool else one.to(like.dtype)
            if one is padding:
                added = added.reshape(like.shape[0], 1, 1, -1)
            elif added.dim() == 3:
                added = added.unflatten(0, (like.shape[0], -1))
            found = added if found is None else found + added
        return found


def with_fewer_heads(attention: nn.MultiheadAttention) -> None:
    """Make an attention follow the sizes that its tensors have by now; all else stays, `num_heads` too, which code may use."""
    attention.__class__ = FewerHeads
    attention._qkv_same_embed_dim = False  # keeps encoder layers from computing it themselves, all heads in one call


def is_followed(attention: nn.MultiheadAttention) -> bool:
    """Whether an attention is nothing but projections and heads: one width, and nothing added to keys and values."""
    packed = getattr(attention, "in_proj_weight", None) is not None
    return packed and type(attention) in (nn.MultiheadAttention, FewerHeads) and attention.bias_k is None and not attention.add_zero_attn
