"""Floats of 8 bits: computed with as float32, which holds each of them exactly, and stored again as what they were.

Torch copies, compares and masks them, but neither sorts nor adds nor judges them. `float8_e8m0fnu` holds powers of two,
the scales of blocks of weights; it has neither a zero nor a sign and is never pruned.

Source: OCP 8-bit Floating Point Specification 1.0 (e4m3fn, e5m2); Noune et al. 2022, arXiv 2206.02915 (the fnuz formats).
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = torch.float8_e8m0fnu
SMALL = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, SCALES})


def computable(tensor: Tensor) -> Tensor:
    """The same numbers in a type that torch computes with: float32 for those of 8 bits, all others as they are."""
    return tensor.float() if tensor.dtype in SMALL else tensor


def stored_as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in the type they are stored in; in one of 8 bits a finite number stays finite (torch alone would make it NaN).

    Args:
        tensor: any numbers; of the type already, they are returned as they are, bit for bit.
        dtype: of the result.
    """
    if tensor.dtype == dtype or dtype not in SMALL or dtype == SCALES:
        return tensor.to(dtype)
    most = torch.finfo(dtype).max
    return torch.where(tensor.isfinite(), tensor.clamp(-most, most), tensor).to(dtype)


def zeros_in(tensor: Tensor) -> int:
    """How many numbers are exactly zero; scales never are."""
    return 0 if tensor.dtype == SCALES else int(torch.count_nonzero(tensor == 0))
