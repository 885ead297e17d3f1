"""What holds for every mask set and every nest."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from itertools import pairwise
from operator import and_

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.values.mask_set import MaskSet, pack_bits, unpack_bits
from sparsify_cli.values.nest import Nest
from tests.strategies import masks

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
SHAPES = {"a": (3, 5), "b": (2, 2, 2), "c": (1,)}
mask_sets = st.fixed_dictionaries({name: masks(shape) for name, shape in SHAPES.items()}).map(MaskSet)
some_masks = st.dictionaries(st.sampled_from(["a", "b"]), masks((2, 3))).map(MaskSet)


@given(mask=shapes.flatmap(masks))
def test_bits_come_back(mask):
    """Packing and unpacking any shape, none and empty included, is exact, and takes a byte for eight weights."""
    packed = pack_bits(mask)
    assert packed.numel() == -(-mask.numel() // 8)
    found = unpack_bits(packed, tuple(mask.shape))
    assert found.shape == mask.shape and found.dtype == torch.bool
    assert torch.equal(found, mask)


@given(mask=masks((4, 6)))
def test_packing_looks_at_positions_not_memory(mask):
    """A transposed view packs like its copy."""
    assert torch.equal(pack_bits(mask.T), pack_bits(mask.T.contiguous()))


@given(one=mask_sets, dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32]))
def test_the_digest_is_of_the_support(one, dtype):
    """Neither the type of the weights nor the order of names changes it."""
    tensors = {name: one[name].to(dtype) * -3 for name in reversed(list(one))}
    assert MaskSet.from_zeros(tensors).digest() == one.digest()


@given(one=mask_sets, other=mask_sets)
def test_different_masks_have_different_digests(one, other):
    """Equal masks, equal digests, and the other way round."""
    assert (one.digest() == other.digest()) == (one == other)


@given(one=mask_sets, other=mask_sets, third=mask_sets)
def test_nesting_is_a_partial_order(one, other, third):
    """Reflexive, antisymmetric, transitive; and a nested network is never the larger one."""
    assert one <= one
    assert not (one <= other and other <= one) or one == other
    small, middle = one & other & third, one & other
    assert small <= middle <= one and small <= one
    assert not one <= other or one.kept <= other.kept


@given(one=some_masks, other=some_masks, third=some_masks)
def test_both_is_the_largest_network_inside_both(one, other, third):
    """`&` is inside both, contains whatever is inside both, does not depend on order, and the empty set changes nothing."""
    both = one & other
    assert both <= one and both <= other
    assert not (third <= one and third <= other) or third <= both
    assert both == other & one and one & one == one and one & MaskSet() == one
    assert (one & other) & third == one & (other & third)


@given(one=mask_sets, other=mask_sets)
def test_applying_twice_is_applying_both(one, other):
    """Masking by one and then by the other is masking by what both keep."""
    tensors = {name: torch.full(shape, 2.0) for name, shape in SHAPES.items()}
    twice, once = other.apply(one.apply(tensors)), (one & other).apply(tensors)
    assert all(torch.equal(twice[name], once[name]) for name in SHAPES)
    assert sum(int(t.count_nonzero()) for t in once.values()) == (one & other).kept


@given(drawn=st.lists(mask_sets, min_size=1, max_size=5))
def test_a_nest_gives_back_its_masks(drawn):
    """Any falling chain of supports is stored in one integer a weight and given back exactly: nested, with the same counts."""
    chain = [reduce(and_, drawn[: len(drawn) - i]) for i in range(len(drawn))]
    sides = [{"bias": torch.tensor([float(i)])} for i in range(len(chain))]
    nest = Nest.of([Fraction(len(chain) - i, 9) for i in range(len(chain))], chain, sides)
    found = [nest.masks(level) for level in range(1, nest.levels + 1)]
    assert found == chain
    assert all(small <= large for small, large in pairwise(found))
    assert [one.kept for one in found] == [one.kept for one in chain]
    tensors = {name: torch.rand(shape) + 1 for name, shape in SHAPES.items()} | {"bias": torch.tensor([9.0])}
    for level, masks_of_level in enumerate(chain, 1):
        network = nest.extract(tensors, level)
        assert MaskSet.from_zeros({name: network[name] for name in SHAPES}) == masks_of_level
        assert float(network["bias"]) == level - 1
