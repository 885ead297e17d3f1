"""Masks: counts, order, application and identity."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.values.mask_set import MaskSet, pack_bits, unpack_bits


def mask(*rows):
    """A mask of 0 and 1."""
    return torch.tensor(rows, dtype=torch.bool)


ONE = MaskSet({"b": mask([1, 0], [0, 0]), "a": mask([1, 1, 0])})
MORE = MaskSet({"b": mask([1, 1], [0, 0]), "a": mask([1, 1, 0])})


def test_counts_by_hand():
    """3 of 7 stay: sparsity 4/7, exactly; nothing covered is sparsity 0."""
    assert (ONE.kept, ONE.total, ONE.sparsity) == (3, 7, Fraction(4, 7))
    assert (MaskSet().kept, MaskSet().total, MaskSet().sparsity) == (0, 0, 0)
    assert list(ONE) == ["a", "b"] and len(ONE) == 2 and not MaskSet()


def test_the_first_position_is_the_lowest_bit():
    """1,0,0,0,0,0,0,0 | 1,1 is the bytes 1 and 3; the tail is zero."""
    assert pack_bits(mask(1, 0, 0, 0, 0, 0, 0, 0, 1, 1)).tolist() == [1, 3]
    assert unpack_bits(torch.tensor([1, 3], dtype=torch.uint8), (2, 5)).tolist() == mask([1, 0, 0, 0, 0], [0, 0, 0, 1, 1]).tolist()
    assert pack_bits(torch.zeros(0, dtype=torch.bool)).tolist() == []


def test_applying_writes_real_zeros():
    """Masked values become +0, also NaN; kept values keep their bits; other tensors and the originals are left alone."""
    tensors = {"a": torch.tensor([[1.5, -2.0, float("nan")]]), "b": torch.full((2, 2), -3.0), "bias": torch.ones(2)}
    applied = ONE.apply(tensors)
    assert applied["a"].tolist() == [[1.5, -2.0, 0.0]]
    assert applied["b"].tolist() == [[-3.0, 0.0], [0.0, 0.0]]
    assert not torch.signbit(applied["b"][1]).any()
    assert applied["bias"] is tensors["bias"]
    assert tensors["b"].tolist() == [[-3.0, -3.0], [-3.0, -3.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_digest_depends_on_the_support_alone(dtype):
    """Any precision of the weights, any order of the names: one digest; another position, name or shape: another."""
    values = {"b": torch.tensor([[5, 0], [0, 0]]).to(dtype), "a": torch.tensor([[2, -1, 0]]).to(dtype)}
    assert MaskSet.from_zeros(values).digest() == ONE.digest()
    assert MaskSet(dict(reversed(ONE.masks.items()))).digest() == ONE.digest()
    others = [MORE, MaskSet({"b": ONE["b"]}), MaskSet({"c": ONE["b"], "a": ONE["a"]}), MaskSet({"b": ONE["b"].reshape(4), "a": ONE["a"]})]
    assert len({one.digest() for one in (ONE, *others)}) == 5


def test_minus_zero_is_zero_and_nan_is_not():
    """The support of a tensor is where it differs from zero."""
    assert MaskSet.from_zeros({"w": torch.tensor([0.0, -0.0, float("nan"), 1e-45])})["w"].tolist() == [False, False, True, True]


def test_nesting_by_hand():
    """What stays in the smaller stays in the larger; the reverse does not hold."""
    assert ONE <= MORE and not MORE <= ONE and ONE <= ONE


def test_a_tensor_without_a_mask_is_kept_whole():
    """Nothing masked is the largest network: everything is inside it, and it is inside nothing that prunes."""
    nothing, only_a = MaskSet(), MaskSet({"a": ONE["a"]})
    assert nothing >= ONE
    assert not nothing <= ONE
    assert nothing <= MaskSet({"a": mask([1, 1])})
    assert only_a >= ONE
    assert not only_a <= ONE


def test_both_by_hand():
    """Kept in both; a tensor that only one masks keeps that mask."""
    both = ONE & MaskSet({"b": mask([0, 1], [1, 1]), "c": mask([0])})
    assert both == MaskSet({"a": ONE["a"], "b": mask([0, 0], [0, 0]), "c": mask([0])})


def test_equality():
    """Names and places decide; another type is no mask set."""
    assert MaskSet({"b": ONE["b"].clone(), "a": ONE["a"].clone()}) == ONE
    assert ONE != MORE and MaskSet({"a": ONE["a"]}) != ONE and ONE != {"a": 1}
    with pytest.raises(TypeError):
        hash(ONE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_mask_is_boolean(dtype):
    """Zeros and ones of another type are refused by name."""
    with pytest.raises(KeyMismatch, match="'w'"):
        MaskSet({"w": torch.ones(3, dtype=dtype), "a": mask([1])})
