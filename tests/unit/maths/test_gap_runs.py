"""Bytes of storage forms from runs of zeros: the same as those of the forms themselves, however a tensor is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsify_cli.maths.gap_runs import Runs
from sparsify_cli.values.packed import encode, sizes


def of(*parts):
    """The runs of slices, put together."""
    return sum((Runs.of(np.array(part, dtype=bool)) for part in parts), start=Runs())


def test_by_hand():
    """Ten positions, two values of 4 bytes: 2 bytes of bits, or two gaps of 1 or 2 bytes."""
    found = of([0, 0, 1, 0, 0, 0, 0, 1, 0, 0]).bytes_by_form(4)
    assert found == {"dense": 40, "bitmask": 10, "gaps8": 10, "gaps16": 12}


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 65534, 65535, 65536, 131070])
@pytest.mark.parametrize("where", ["before", "between", "behind", "alone"])
def test_long_gaps(gap, where):
    """Around each multiple of an escape, at either end and between, bytes are those of the stream that is written."""
    values = {"before": [0] * gap + [1], "between": [1] + [0] * gap + [1], "behind": [1] + [0] * gap, "alone": [0] * gap}[where]
    tensor = torch.tensor(values, dtype=torch.int16)
    found = of(values).bytes_by_form(2)
    for form in ("bitmask", "gaps8", "gaps16"):
        assert found[form] == sum(entry.nbytes for entry in encode(tensor, form).values())


def test_slices_add_up():
    """Sparse and dense tensors, cut anywhere: as from one piece, and as `packed` counts where it does."""
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.001, 0.02, 0.5, 1.0):
        tensor = (torch.rand(3000, generator=generator) < share).float()
        flat = tensor.numpy() != 0
        for cuts in ([], [1], [1500], [7, 8, 2999], [1000, 1000, 2000]):
            found = of(*np.split(flat, cuts))
            assert found == of(flat)
            assert sizes(tensor).items() <= found.bytes_by_form(4).items()
