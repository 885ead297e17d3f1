"""Convolutions as smaller matrix products: kernel positions that no filter reads, and filters of zeros, take no part.

    conv(x)  = W' X + b       X [columns, positions]: a column for each input channel and kernel position
    compact  = only the columns some filter reads (gathered from x once each), only the filters that are not zero

The products fall to the share of rows times the share of columns; outputs are those of the convolution, up to rounding. Gathering costs
time that a direct convolution does not need, so that this is faster only where most columns are gone.

Source: Wen et al. 2016 (SSL, arXiv 1608.03665), section 3.1, shape-wise sparsity: rows and columns removed before the matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class CompactConv2d(nn.Module):
    """A convolution without the columns and rows that are zero.

    Its product is a linear layer, [kept filters, kept columns], so that it is pruned, counted and trained like others.
    """

    def __init__(self, conv: nn.Conv2d, *, filters: int, columns: int) -> None:
        """As many filters and columns as are kept; which ones, and their weights, are loaded."""
        super().__init__()
        self.product = nn.Linear(columns, filters, bias=False, dtype=conv.weight.dtype)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.register_buffer("rows", torch.arange(filters))
        self.register_buffer("columns", torch.arange(columns))
        self.rows: Tensor
        self.columns: Tensor
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.padding, self.dilation = conv.kernel_size, conv.stride, conv.padding, conv.dilation

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n filters u v"]:
        """Gather, multiply, and put rows where they belong.

        Raises:
            ValueError: images of other channels, of which a gather would read something all the same.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"expected images of {self.in_channels} channels, got shape {list(images.shape)}")
        vertical, horizontal = self._padding()
        padded = functional.pad(images, (horizontal, horizontal, vertical, vertical))
        size = [self._length(padded.shape[2 + dim], dim) for dim in (0, 1)]
        found = padded.flatten(1).index_select(1, self._places(padded, size).flatten())
        read = found.reshape(images.shape[0], self.columns.shape[0], size[0] * size[1]).transpose(1, 2)
        product = self.product(read).transpose(1, 2)
        if self.rows.shape[0] < self.out_channels:
            whole = product.new_zeros(images.shape[0], self.out_channels, size[0] * size[1])
            product = whole.index_copy(1, self.rows, product)
        if self.bias is not None:
            product = product + self.bias[:, None]
        answer: Tensor = product.reshape(images.shape[0], self.out_channels, *size)
        return answer

    def _padding(self) -> tuple[int, int]:
        assert not isinstance(self.padding, str), "not compacted"
        return self.padding[0], self.padding[1]

    def _length(self, padded: int, dim: int) -> int:
        return (padded - self.dilation[dim] * (self.kernel_size[dim] - 1) - 1) // self.stride[dim] + 1

    def _places(self, padded: Tensor, size: list[int]) -> Int[Tensor, "columns positions"]:
        """Where each column of each position lies in a padded image, flat."""
        height, width = padded.shape[2:]
        high, wide = self.kernel_size
        channel, at = self.columns // (high * wide), self.columns % (high * wide)
        first = channel * height * width + at // wide * self.dilation[0] * width + at % wide * self.dilation[1]
        down = torch.arange(size[0], device=padded.device) * self.stride[0] * width
        across = torch.arange(size[1], device=padded.device) * self.stride[1]
        return first[:, None] + (down[:, None] + across).flatten()


@dataclass(frozen=True, eq=False)
class Compaction:
    """What stays of one convolution.

    Args:
        rows: filters that are not zero, in order.
        columns: channel * kernel positions + position of the columns that some filter reads, in order.
        share: multiply-adds that are left, fraction.
    """

    rows: Tensor
    columns: Tensor
    share: float

    def tensors(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """The weight as the compact layer stores it, with what is kept."""
        product = weight.flatten(1)[self.rows][:, self.columns]
        return {f"{name}.product.weight": product.clone(), f"{name}.rows": self.rows, f"{name}.columns": self.columns}

    def mask(self, mask: Tensor) -> Tensor:
        """A mask of the weight, as one of the product."""
        return mask.flatten(1)[self.rows][:, self.columns]


def compactions(module: nn.Module, *, most: float) -> dict[str, Compaction]:
    """Convolutions of which at most a share `most` of the multiply-adds would be left.

    Plain ones only: one group, padded with zeros by fixed counts, under one name, weights nobody else's, something left of them.
    """
    uses: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    plain = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Conv2d and uses[id(layer.weight)] == 1}
    found = {name: compaction(layer.weight.detach()) for name, layer in plain.items() if _is_plain(layer)}
    return {name: one for name, one in found.items() if 0 < one.share <= most}


def compaction(weight: Float[Tensor, "filters c h w"]) -> Compaction:
    """Rows and columns that are not zero."""
    flat = weight.flatten(1) != 0
    rows, columns = flat.any(1).nonzero().flatten(), flat.any(0).nonzero().flatten()
    return Compaction(rows, columns, len(rows) * len(columns) / max(1, flat.numel()))


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def compacted(module: nn.Module, kept: Mapping[str, tuple[int, int]]) -> nn.Module:
    """The module itself, with compact layers in place of convolutions; which rows and columns they hold is loaded.

    Args:
        module: changed in place.
        kept: name of a convolution -> filters and columns it keeps.

    Raises:
        AttributeError: there is no such convolution.
    """
    for name, (filters, columns) in kept.items():
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Conv2d):
            raise AttributeError(f"{name} is no convolution")
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, CompactConv2d(layer, filters=filters, columns=columns))
    return module
