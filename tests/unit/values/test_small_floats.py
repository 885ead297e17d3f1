"""Floats of 8 bits: exact as float32, stored again as what they were."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.values.small_floats import computable, stored_as, zeros_in

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.float8_e4m3fnuz: 240.0, torch.float8_e5m2fnuz: 57344.0}
ZEROS = {torch.float8_e4m3fn: 2, torch.float8_e5m2: 2, torch.float8_e4m3fnuz: 1, torch.float8_e5m2fnuz: 1, torch.float8_e8m0fnu: 0}


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_a_finite_number_stays_finite(dtype: torch.dtype) -> None:
    """A number beyond the largest is stored as the largest, NaN as NaN, and what fits as it is."""
    found = stored_as(torch.tensor([1e9, -1e9, 1.5, float("nan")]), dtype).float()
    assert found[:3].tolist() == [LARGEST[dtype], -LARGEST[dtype], 1.5] and bool(found[3].isnan())


@pytest.mark.parametrize("dtype", ZEROS, ids=str)
def test_every_pattern_of_bits(dtype: torch.dtype) -> None:
    """Stored as their own type all 256 patterns stay; as float32 they are the same numbers; 0 and -0 are zeros, a scale never is."""
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    assert torch.equal(stored_as(every, dtype).view(torch.uint8), every.view(torch.uint8))
    assert computable(every).dtype == torch.float32 and zeros_in(every) == ZEROS[dtype]
    whole = every[every.float().isfinite()]
    assert torch.equal(computable(whole).to(dtype).view(torch.uint8), whole.view(torch.uint8))
