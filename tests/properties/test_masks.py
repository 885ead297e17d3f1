"""What holds for every set of masks chosen, and that no better set exists."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsify_cli.errors import SparsifyError
from sparsify_cli.maths.choose_masks import choose_masks, implied_sparsity
from sparsify_cli.maths.keep import zeros_count
from sparsify_cli.maths.matrix_view import obstacle, to_blocks, to_matrix
from sparsify_cli.recipes.allocation import ALLOCATION_NAMES
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.mask_set import MaskSet
from tests.oracles import best_total
from tests.strategies import masks, n_of_m, patterns, scores, shapes_for, sparsities

allocations = st.sampled_from(ALLOCATION_NAMES)


@st.composite
def nets(draw, pattern):
    """Scores of one to three layers, the first of which carries the pattern; the others may not."""
    shapes = [draw(shapes_for(pattern, most=2))]
    shapes += draw(st.lists(st.one_of(shapes_for(pattern, most=2), st.sampled_from([(3, 3), (2, 1, 3, 3), (5, 7)])), max_size=2))
    return {f"layer{i}": draw(scores(shape)) for i, shape in enumerate(shapes)}


@st.composite
def requests(draw):
    """Scores and a request, with `level` in [0, 1] from the sparsity that the pattern forces (0) to everything (1)."""
    pattern = draw(patterns())
    return draw(nets(pattern)), {"pattern": pattern, "level": draw(sparsities()), "allocation": draw(allocations)}


def asked(net, request):
    """The sparsity a request stands for."""
    least = implied_sparsity({name: tuple(values.shape) for name, values in net.items()}, request["pattern"])
    return least + (1 - least) * request["level"]


def chosen(net, request, **constraints):
    """The masks, where the request can be met at all."""
    pattern, allocation = request["pattern"], request["allocation"]
    try:
        return choose_masks(net, pattern=pattern, sparsity=asked(net, request), allocation=allocation, **constraints)
    except SparsifyError as error:
        assert error.exit_code == 5
        assume(False)


def zeros(masks):
    """How many weights go."""
    return masks.total - masks.kept


@given(drawn=requests())
def test_the_count_is_exact_and_the_pattern_holds(drawn):
    """Zeros over all weights are what was asked (to one block), groups keep at most N, blocks are whole, other layers are dense."""
    net, request = drawn
    pattern, got = request["pattern"], chosen(net, request)
    assert {name: tuple(mask.shape) for name, mask in got.items()} == {name: tuple(values.shape) for name, values in net.items()}
    assert abs(zeros(got) - zeros_count(got.total, asked(net, request))) <= pattern.block_size - 1
    for mask in got.values():
        if obstacle(tuple(mask.shape), pattern):
            assert bool(mask.all())
            continue
        assert int(to_matrix(mask).reshape(-1, pattern.group).sum(1).max()) <= pattern.keep
        blocks = to_blocks(to_matrix(mask), pattern.rows, pattern.columns)
        assert torch.equal(blocks.any(1), blocks.all(1))


@given(drawn=requests(), rise=st.fractions(0, 1))
def test_supports_shrink_within(drawn, rise):
    """With rising sparsity inside the support before, masks nest and every layer keeps no more than it had; counts stay exact."""
    net, request = drawn
    before = chosen(net, request)
    more = {**request, "level": request["level"] + (1 - request["level"]) * rise}
    after = chosen(net, more, within=before)
    assert after <= before
    assert abs(zeros(after) - zeros_count(after.total, asked(net, more))) <= request["pattern"].block_size - 1


@given(drawn=requests())
def test_choosing_again_within_changes_nothing(drawn):
    """The same request inside its own support is that support."""
    net, request = drawn
    before = chosen(net, request)
    assert chosen(net, request, within=before) == before


@given(drawn=requests(), data=st.data())
def test_frozen_weights_stay(drawn, data):
    """Whatever must stay does, and the count is still exact."""
    net, request = drawn
    floor = MaskSet({name: data.draw(masks(values.shape)) for name, values in net.items()})
    got = chosen(net, request, floor=floor)
    assert floor <= got
    assert abs(zeros(got) - zeros_count(got.total, asked(net, request))) <= request["pattern"].block_size - 1


@given(drawn=requests(), data=st.data())
def test_some_of_the_chosen_may_be_frozen(drawn, data):
    """Freezing a part of what was chosen is always feasible inside the support, at the same sparsity and any allocation."""
    net, request = drawn
    before = chosen(net, request)
    floor = MaskSet({name: mask & data.draw(masks(mask.shape)) for name, mask in before.items()})
    again = chosen(net, {**request, "allocation": data.draw(allocations)}, within=before, floor=floor)
    assert again == before


@given(drawn=requests())
def test_the_order_of_tensors_does_not_matter(drawn):
    """The same tensors in another order give the same masks, ties and all."""
    net, request = drawn
    assert chosen(dict(reversed(net.items())), request) == chosen(net, request)


@given(drawn=requests(), scale=st.sampled_from([2.0, 64.0, 1024.0]))
def test_the_scale_of_all_scores_does_not_matter(drawn, scale):
    """Scores times a power of two above one, which is exact, choose the same weights."""
    net, request = drawn
    assert chosen({name: values * scale for name, values in net.items()}, request) == chosen(net, request)


def total_of(net, got):
    """Sum of the scores that stay."""
    return sum(float(net[name].double()[mask].sum()) for name, mask in got.items())


@given(first=scores((2, 2)), second=scores((2, 3)), kept=st.integers(0, 10))
def test_no_mask_of_that_size_keeps_more(first, second, kept):
    """Unstructured global selection reaches the largest kept score of all masks of its size, by trying all of them."""
    net = {"a": first, "b": second}
    got = choose_masks(net, pattern=Pattern(), sparsity=Fraction(10 - kept, 10), allocation="global")
    best = best_total(torch.cat([first.flatten(), second.flatten()]), kept)
    assert got.kept == kept
    assert total_of(net, got) == pytest.approx(best, rel=1e-12, abs=1e-9)


@given(values=scores((3, 4)), pattern=n_of_m(most=4).filter(lambda p: p.group in (2, 4)), data=st.data())
def test_no_legal_mask_of_that_size_keeps_more(values, pattern, data):
    """Under N:M the kept score is the largest of all masks of its size that keep at most N of each group, by trying all of them."""
    kept = data.draw(st.integers(0, 12 * pattern.keep // pattern.group))
    got = choose_masks({"a": values}, pattern=pattern, sparsity=Fraction(12 - kept, 12), allocation="global")
    best = best_total(values, kept, legal=lambda mask: int(mask.view(-1, pattern.group).sum(1).max()) <= pattern.keep)
    assert got.kept == kept
    assert total_of({"a": values}, got) == pytest.approx(best, rel=1e-12, abs=1e-9)
