"""Nests in one file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import is_nest_file, read_nest, write_nest

PATH = Path("nest.safetensors")


def test_a_nest_comes_back():
    """Levels, sparsities (thirds too) and the side state of every level, types included."""
    sparsities = (Fraction(95, 100), Fraction(1, 3), Fraction(0))
    index = {"a.weight": torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8), "b/odd name": torch.tensor([3], dtype=torch.uint8)}
    side = tuple({"bn.mean": torch.tensor([float(i)]), "bn.num_batches_tracked": torch.tensor(i)} for i in range(3))
    weights = {name: torch.arange(1.0, value.numel() + 1).reshape(value.shape) for name, value in index.items()}
    write_nest(PATH, Nest(sparsities, index, side), weights)
    found, last = read_nest(PATH)
    assert last["a.weight"].tolist() == [[0.0, 2.0], [3.0, 4.0]]
    assert float(last["bn.mean"]) == 2.0
    assert found.sparsities == sparsities
    assert found.index.keys() == index.keys() and all(torch.equal(found.index[name], index[name]) for name in index)
    for mine, theirs in zip(side, found.side, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


def test_ten_levels_do_not_mix():
    """The side of level 1 is not that of level 10."""
    index = {"w": torch.zeros(1, dtype=torch.uint8)}
    nest = Nest(tuple(Fraction(20 - i, 20) for i in range(11)), index, tuple({"bias": torch.tensor([float(i)])} for i in range(11)))
    write_nest(PATH, nest, {"w": torch.ones(1)})
    assert [float(side["bias"]) for side in read_nest(PATH)[0].side] == [float(i) for i in range(11)]


def test_a_nest_file_is_told_from_others():
    """Only a file with our schema counts; a missing, damaged or foreign one does not."""
    assert not is_nest_file(PATH)
    save_file({"w": torch.ones(2)}, PATH)
    assert not is_nest_file(PATH)
    PATH.write_bytes(b"nothing")
    assert not is_nest_file(PATH)
    write_nest(PATH, Nest((Fraction(1, 2),), {"w": torch.tensor([1, 0], dtype=torch.uint8)}, ({},)), {"w": torch.ones(2)})
    assert is_nest_file(PATH)


@pytest.mark.parametrize("about", [{}, {"sparsities": "x"}, {"sparsities": "[]"}, {"sparsities": "[1]"}])
def test_damage_is_a_sentence(about):
    """A header without levels, or weights that do not fit their levels."""
    save_file({"index/w": torch.ones(2, dtype=torch.uint8)}, PATH, metadata={"schema": "sparsify/nest/1", **about})
    with pytest.raises(UnreadableFile, match="is damaged"):
        read_nest(PATH)
