"""Masks and nests on disk: one bit and one byte a weight, exact, damage noticed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.mask_file import read_masks, read_nest, read_tensors, write_masks, write_nest, write_tensors
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest

PATH = Path("file.safetensors")


def test_masks_come_back():
    """Odd sizes, no dimension, no element: the same masks with the same digest."""
    shapes = [(3, 5), (2, 1, 3, 3), (), (0, 4), (7,)]
    masks = MaskSet({f"layer{i}": torch.rand(shape) < 0.5 for i, shape in enumerate(shapes)})
    write_masks(PATH, masks)
    assert read_masks(PATH) == masks
    assert read_masks(PATH).digest() == masks.digest()
    assert {name: tuple(mask.shape) for name, mask in read_masks(PATH).items()} == {f"layer{i}": shape for i, shape in enumerate(shapes)}


def test_masks_take_one_bit_a_weight():
    """A mask of 80,000 weights takes 10,000 bytes and a small header."""
    write_masks(PATH, MaskSet({"w": torch.rand(200, 400) < 0.1}))
    assert 10_000 <= PATH.stat().st_size < 10_500


def test_a_nest_comes_back():
    """Levels, sparsities (thirds too) and the side state of every level, types included."""
    sparsities = (Fraction(95, 100), Fraction(1, 3), Fraction(0))
    index = {"a.weight": torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8), "b/odd name": torch.tensor([3], dtype=torch.uint8)}
    side = tuple({"bn.mean": torch.tensor([float(i)]), "bn.num_batches_tracked": torch.tensor(i)} for i in range(3))
    write_nest(PATH, Nest(sparsities, index, side))
    found = read_nest(PATH)
    assert found.sparsities == sparsities
    assert found.index.keys() == index.keys() and all(torch.equal(found.index[name], index[name]) for name in index)
    for mine, theirs in zip(side, found.side, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


def test_ten_levels_do_not_mix():
    """The side of level 1 is not that of level 10."""
    index = {"w": torch.zeros(1, dtype=torch.uint8)}
    nest = Nest(tuple(Fraction(20 - i, 20) for i in range(11)), index, tuple({"bias": torch.tensor([float(i)])} for i in range(11)))
    write_nest(PATH, nest)
    assert [float(side["bias"]) for side in read_nest(PATH).side] == [float(i) for i in range(11)]


def test_tensors_with_shared_memory():
    """Views and transposed tensors are written as what they look like."""
    base = torch.arange(6.0).reshape(2, 3)
    write_tensors(PATH, {"b": base.T, "a": base, "row": base[0]}, {"k": "v"})
    found, about = read_tensors(PATH)
    assert list(found) == ["a", "b", "row"]
    assert torch.equal(found["b"], base.T) and torch.equal(found["row"], base[0])
    assert about["k"] == "v"


@pytest.mark.parametrize("damage", [lambda raw: raw[:-3], lambda raw: raw[:20], lambda raw: b"", lambda raw: b"\xff" * 8 + raw[8:]])
@pytest.mark.parametrize("read", [read_masks, read_nest])
def test_damage_is_a_sentence(read, damage):
    """Truncated, empty, with a wrong header: the path, no other exception."""
    write_masks(PATH, MaskSet({"w": torch.ones(9, dtype=torch.bool)}))
    PATH.write_bytes(damage(PATH.read_bytes()))
    with pytest.raises(UnreadableFile, match=r"file\.safetensors is damaged"):
        read(PATH)
