"""Masks and nests on disk: one bit and one byte a weight, exact, damage noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.mask_file import read_masks, read_tensors, write_masks, write_tensors
from sparsify_cli.values.mask_set import MaskSet

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


def test_tensors_with_shared_memory():
    """Views and transposed tensors are written as what they look like."""
    base = torch.arange(6.0).reshape(2, 3)
    write_tensors(PATH, {"b": base.T, "a": base, "row": base[0]}, {"k": "v"})
    found, about = read_tensors(PATH)
    assert list(found) == ["a", "b", "row"]
    assert torch.equal(found["b"], base.T) and torch.equal(found["row"], base[0])
    assert about["k"] == "v"


@pytest.mark.parametrize("damage", [lambda raw: raw[:-3], lambda raw: raw[:20], lambda raw: b"", lambda raw: b"\xff" * 8 + raw[8:]])
def test_damage_is_a_sentence(damage):
    """Truncated, empty, with a wrong header: the path, no other exception."""
    write_masks(PATH, MaskSet({"w": torch.ones(9, dtype=torch.bool)}))
    PATH.write_bytes(damage(PATH.read_bytes()))
    with pytest.raises(UnreadableFile, match=r"file\.safetensors is damaged"):
        read_masks(PATH)
