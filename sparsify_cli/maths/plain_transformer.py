"""Torch's encoder layers as they are written in papers, without the branches of the fused path, so that torch.fx can follow them.

What goes through them may be a stand-in of a tensor; so the annotations leave it open.

Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.1; norm first: Xiong et al. 2020, arXiv 2002.04745.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class PlainLayer(nn.TransformerEncoderLayer):
    """One layer."""

    def forward(self, src: Any, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None, is_causal: bool = False) -> Any:
        """Attention, then two linear layers, each added to what came in."""
        del is_causal
        if self.norm_first:
            src = src + self._attended(self.norm1(src), src_mask, src_key_padding_mask)
            return src + self._fed(self.norm2(src))
        src = self.norm1(src + self._attended(src, src_mask, src_key_padding_mask))
        return self.norm2(src + self._fed(src))

    def _attended(self, x: Any, mask: Any, padding: Any) -> Any:
        return self.dropout1(self.self_attn(x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False)[0])

    def _fed(self, x: Any) -> Any:
        activation: Any = self.activation
        return self.dropout2(self.linear2(self.dropout(activation(self.linear1(x)))))


class PlainEncoder(nn.TransformerEncoder):
    """Several of them."""

    def forward(
        self, src: Any, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None, is_causal: bool | None = None
    ) -> Any:
        """One after the other, and a norm."""
        del is_causal
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
        return src if self.norm is None else self.norm(src)


PLAIN: dict[type[nn.Module], type[nn.Module]] = {nn.TransformerEncoderLayer: PlainLayer, nn.TransformerEncoder: PlainEncoder}


def spelled(module: nn.Module) -> nn.Module:
    """The module itself, its encoders written out."""
    for part in module.modules():
        if type(part) in PLAIN:
            part.__class__ = PLAIN[type(part)]
    return module
