"""Streamed selection against selection in memory: the same masks, bit for bit."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsify_cli.maths.weight_view as weight_view
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.maths.keep import top_k_of_groups
from sparsify_cli.maths.magnitude_keys import BITS, INFINITE, common_type, magnitude_keys, storage_type
from sparsify_cli.maths.n_of_m import best_of_groups
from sparsify_cli.maths.radix_select import Race, Trimmed, counts_of_digit, digits
from sparsify_cli.recipes.pattern import Pattern

WORDS = list(BITS)


def raw_of(tensor):
    """The bits of a tensor as unsigned integers, flat."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().view(storage_type(str(tensor.dtype).removeprefix("torch.")))


@pytest.mark.parametrize("word", WORDS)
def test_keys_are_in_the_order_of_magnitudes(word):
    """Sorting the keys of random numbers sorts their magnitudes; opposite numbers have one key; zero has key 0."""
    numbers = (torch.randn(999) * 3).to(getattr(torch, word))
    keys = magnitude_keys(raw_of(numbers), word, word)
    order = np.argsort(keys, kind="stable")
    assert bool((numbers.double().abs()[order].diff() >= 0).all())
    assert (magnitude_keys(raw_of(torch.zeros(3).to(numbers.dtype)), word, word) == 0).all()


@pytest.mark.parametrize("word", WORDS)
def test_keys_of_what_is_not_finite(word):
    """NaN, and infinity where the type has one, are at or above the least infinite key, everything else below."""
    numbers = torch.tensor([float("nan"), 1.0, -0.0, 2.0]).to(getattr(torch, word))
    keys = magnitude_keys(raw_of(numbers), word, word)
    assert (keys >= INFINITE[word]).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(WORDS, 2)))
def test_types_are_compared_through_one_that_holds_both(a, b):
    """The same number has the same key whatever type it was stored in, and the order of magnitudes holds across types."""
    common = common_type([a, b])
    numbers = torch.tensor([0.0, 0.5, -1.0, 1.5, 2.0])
    first, second = (magnitude_keys(raw_of(numbers.to(getattr(torch, word))), word, common).astype(np.uint64) for word in (a, b))
    assert first.tolist() == second.tolist()
    assert (np.diff(first.astype(np.int64)) > 0).all()


@given(st.integers(1, 16).flatmap(lambda m: st.tuples(st.just(m), st.integers(1, m))), st.integers(0, 2**32 - 1))
def test_the_best_of_groups(sizes, seed):
    """Counting wins and sorting choose the same positions, ties included."""
    group, keep = sizes
    keys = np.random.default_rng(seed).integers(0, 5, 12 * group, dtype=np.uint16)
    expected = top_k_of_groups(torch.from_numpy(keys.astype(np.float32)).reshape(-1, group), keep)
    assert best_of_groups(keys, keep, group).tolist() == expected.reshape(-1).tolist()


def streamed(tensors, pattern, keep):
    """Masks of a global selection, in slices; keep: units over all tensors."""
    words = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    common = "float64" if pattern.block_size > 1 else common_type(words)
    views = {n: weight_view.WeightView(tuple(t.shape), str(t.dtype).removeprefix("torch."), pattern) for n, t in tensors.items()}
    units = {n: [view.units(raw_of(tensors[n])[a : a + c], common) for a, c in view.slices()] for n, view in views.items()}
    race = Race.of(tuple(sorted(tensors)), keep)
    for number, (shift, width) in enumerate(digits(BITS[common])):
        prefix = race.prefix if number else None
        counted = {n: Trimmed.of(sum(_count(u, shift, width, prefix) for u in parts)) for n, parts in units.items()}
        race = race.narrowed(counted, width)
    cuts = race.cuts(counted, width)
    return {n: torch.from_numpy(_mask(views[n], units[n], cuts[n])).reshape(tensors[n].shape) for n in tensors}


def _count(units, shift, width, prefix):
    keys = units.keys if units.present is None else units.keys[units.present]
    return counts_of_digit(keys, shift, width, prefix)


def _mask(view, parts, cut):
    found, seen = [], 0
    for (_, size), part in zip(view.slices(), parts, strict=True):
        keys = part.keys if part.present is None else part.keys[part.present]
        kept = cut.keep(keys, seen)
        seen += int((keys == cut.key).sum())
        whole = kept if part.present is None else np.zeros(part.keys.size, dtype=bool)
        if part.present is not None:
            whole[part.present] = kept
        found.append(view.in_memory_order(whole, size))
    return np.concatenate(found)


@given(
    st.sampled_from(["unstructured", "2:4", "1:4", "block:2x4", "block:4x1"]),
    st.sampled_from(
        [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("float64", "float32"), ("float16", "float16")]
    ),
    st.fractions(0, 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([8, 64, 1 << 20]),
)
def test_streamed_masks_are_the_masks_in_memory(pattern, words, sparsity, seed, size):
    """For every pattern, type, count and size of slice: the masks of choose_masks, with many ties among the weights."""
    pattern = Pattern.parse(pattern)
    generator = torch.Generator().manual_seed(seed)
    shapes = {"b": (8, 12), "a": (4, 8, 3, 3), "c": (8, 4, 1, 1)}
    tensors = {
        name: (torch.randint(-6, 7, shape, generator=generator) / 4).to(getattr(torch, words[index % 2]))
        for index, (name, shape) in enumerate(shapes.items())
    }
    sparsity = max(sparsity, pattern.implied_sparsity)
    expected = choose_masks({n: t.abs() for n, t in tensors.items()}, pattern=pattern, sparsity=sparsity, allocation="global")
    before, weight_view.SLICE = weight_view.SLICE, size
    try:
        found = streamed(tensors, pattern, expected.kept // pattern.block_size)
    finally:
        weight_view.SLICE = before
    assert all(torch.equal(found[name], expected[name]) for name in tensors)


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 3, 3), (8, 4, 1)])
def test_transposed_weights_are_judged_along_their_inputs(shape):
    """A weight stored [in, out] gets the transposed mask of the same weight stored [out, in]."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pattern = Pattern.parse("2:4")
    expected = choose_masks({"w": weight.abs()}, pattern=pattern, sparsity=Fraction(1, 2), allocation="global")["w"]
    stored = weight.transpose(0, 1).contiguous()
    view = weight_view.WeightView(tuple(stored.shape), "float32", pattern, transposed=True)
    ((start, size),) = view.slices()
    assert (start, size) == (0, weight.numel())
    found = view.in_memory_order(view.units(raw_of(stored), "float32").present, size)
    assert torch.equal(torch.from_numpy(found).reshape(stored.shape).transpose(0, 1), expected)


@pytest.mark.parametrize("pattern", ["2:4", "block:2x4"])
def test_transposed_weights_in_groups_are_judged_along_the_inputs_an_output_sees(pattern):
    """[in, out / groups] gets the mask of the convolution in as many groups that each output is."""
    groups, shape = 3, (12, 4, 2, 2)  # [out, in / groups, *kernel]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = choose_masks({"w": weight.abs()}, pattern=Pattern.parse(pattern), sparsity=Fraction(1, 2), allocation="global")["w"]
    layer = torch.nn.ConvTranspose2d(12, 12, 2, groups=groups)
    stored = torch.cat([some.transpose(0, 1) for some in weight.split(4)]).contiguous()
    assert stored.shape == layer.weight.shape
    view = weight_view.WeightView(tuple(stored.shape), "float32", Pattern.parse(pattern), transposed=True, groups=groups)
    assert view.oriented == shape and [size for _, size in view.slices()] == [stored.numel()]
    units = view.units(raw_of(stored), "float32")
    keep = units.present if units.present is not None else units.keys >= np.sort(units.keys)[len(units.keys) // 2]
    found = torch.from_numpy(view.in_memory_order(keep, stored.numel())).reshape(stored.shape)
    assert torch.equal(torch.cat([some.transpose(0, 1) for some in found.split(4)]), expected)
