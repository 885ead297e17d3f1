"""Masks beside each other: counts by hand, set algebra, names with and without prefixes."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.maths.mask_compare import aligned, canonical, difference, found_pattern, layer_mask, merged, overlap
from sparsify_cli.values.mask_set import MaskSet
from tests.strategies import masks


def bits(*rows):
    """A mask written in ones and zeros."""
    return torch.tensor([[int(bit) for bit in row] for row in rows], dtype=torch.bool)


def named(**rows):
    """Masks of one row each."""
    return MaskSet({name.replace("__", "."): bits(row) for name, row in rows.items()})


@pytest.mark.parametrize(
    ("row", "found"),
    [("10000001", "1:4"), ("10100110", "1:2"), ("11000110", "2:4"), ("11101000", "4:8"), ("11101100", ""), ("11111111", ""), ("101", "")],
)
def test_the_strictest_pattern_is_found(row, found):
    """Eight inputs by hand; every pair with at most one is 1:2, which says more than 2:4."""
    assert found_pattern(bits(row, row)) == found


def test_patterns_of_convolutions_run_along_channels():
    """Four input channels at each kernel position; a vector has no pattern."""
    mask = torch.zeros(2, 4, 3, 3, dtype=torch.bool)
    mask[:, 0] = True
    assert found_pattern(mask) == "1:4"
    assert found_pattern(mask[0, 0, 0]) == found_pattern(mask[:0]) == ""


def test_one_layer_by_hand():
    """Two of eight stay in a matrix whose second output and whose last two inputs are gone."""
    one = layer_mask("fc", bits("1100", "0000"))
    assert (one.weights, one.kept, one.dead_rows, one.dead_columns) == (8, 2, 1, 2)
    assert one.sparsity == Fraction(3, 4)
    conv = torch.zeros(3, 2, 1, 2, dtype=torch.bool)
    conv[0, 1, 0, 1] = True
    assert (layer_mask("conv", conv).dead_rows, layer_mask("conv", conv).dead_columns) == (2, 1)
    assert layer_mask("none", conv[:0]).sparsity == 0


def test_overlap_by_hand():
    """1100 and 0110 share one weight of three: IoU 1/3; nothing kept anywhere is full agreement."""
    one = overlap("fc", bits("1100"), bits("0110"))
    assert (one.weights, one.both, one.only_a, one.only_b) == (4, 1, 1, 1)
    assert one.iou == pytest.approx(1 / 3)
    assert overlap("fc", bits("00"), bits("00")).iou == 1


@given(st.data())
def test_overlap_is_that_of_sets(data):
    """Counts and IoU are those of Python's sets of kept positions."""
    a, b = (data.draw(masks((3, 5))) for _ in range(2))
    one, (left, right) = overlap("w", a, b), ({tuple(at) for at in mask.nonzero().tolist()} for mask in (a, b))
    assert (one.both, one.only_a, one.only_b) == (len(left & right), len(left - right), len(right - left))
    assert one.iou == (len(left & right) / len(left | right) if left | right else 1)


def test_layers_that_only_one_has_are_listed():
    """Two layers in common add up; a third on either side is named."""
    found = difference(named(a="1100", b="11", c="1"), named(a="0110", b="11", d="1"))
    assert [one.name for one in found.layers] == ["a", "b"]
    assert (found.only_in_a, found.only_in_b) == (("c",), ("d",))
    assert (found.total.weights, found.total.both, found.total.only_a, found.total.only_b) == (6, 3, 1, 1)
    assert found.total.iou == pytest.approx(3 / 5)


@pytest.mark.parametrize("compare", [difference, lambda a, b: merged([a, b], "and")])
def test_another_shape_is_refused(compare):
    """The tensor and both shapes are named."""
    with pytest.raises(KeyMismatch, match=r"first a: \[1, 2\] and \[1, 3\]"):
        compare(named(a="11"), named(a="111"))


@pytest.mark.parametrize(
    ("how", "three", "two"),
    [("and", "10000000", "11000000"), ("or", "11111110", "11111100"), ("vote", "11101000", "11000000")],
)
def test_merging_by_hand(how, three, two):
    """All eight combinations of three masks; of two, a vote needs both: a tie is dropped."""
    a, b, c = "11110000", "11001100", "10101010"
    assert merged([named(w=a), named(w=b), named(w=c)], how) == named(w=three)
    assert merged([named(w=a), named(w=b)], how) == named(w=two)


def test_merging_needs_the_same_tensors():
    """Whether a layer that one does not mask is kept there is not known."""
    with pytest.raises(KeyMismatch, match="1 tensors are masked in one and not in the other: b"):
        merged([named(a="1"), named(a="1", b="1")], "or")


def test_names_without_wrappers():
    """Prefixes that all names have go, one after the other; what only some have stays."""
    assert set(canonical(named(module___orig_mod__a="1", module___orig_mod__b="1"))) == {"a", "b"}
    assert set(canonical(named(module__a="1", b="1"))) == {"module.a", "b"}
    assert canonical(MaskSet()) == MaskSet()
    assert canonical(named(module__a="10")).digest() == named(a="10").digest()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("net.conv.w", "conv.w"), ("conv.w", "net.backbone.conv.w"), ("conv.w", "conv.w"), ("conv.w", "dense.v")],
)
def test_names_that_differ_by_a_prefix(theirs, ours):
    """One prefix, removed or added, makes names fit; names that fit already or never are left."""
    found = aligned(MaskSet({theirs: bits("10")}), {ours: (1, 2), "other.w": (1, 3)})
    assert set(found) == {ours if ours.endswith(theirs) or theirs.endswith(ours) else theirs}


def test_shapes_decide_between_prefixes():
    """Two places have the name; the one with the shape is meant."""
    assert set(aligned(named(w="10"), {"a.w": (1, 3), "b.w": (1, 2)})) == {"b.w"}
