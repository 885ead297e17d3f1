"""Copies of networks, and networks in other types."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def copy_of(module: nn.Module) -> nn.Module:
    """A deep copy, also where torch refuses one: of tensors that a part has computed and keeps (the weight of `nn.utils.weight_norm`).

    Such an attribute or buffer is copied as the numbers it is; the network computes it again when it runs.
    """
    there = [value for part in module.modules() for value in (*part.__dict__.values(), *part._buffers.values())]
    kept = [value for value in there if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in kept})


def in_type(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network itself, floating tensors of a type and complex ones of twice its size: `Module.to` drops their imaginary parts."""

    def turned(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(torch.promote_types(dtype, torch.complex64))
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    found: nn.Module = module._apply(turned)
    return found


def in_float64(module: nn.Module) -> nn.Module:
    """The network itself in twice the precision."""
    return in_type(module, torch.float64)
