"""Masks chosen by hand: who stays, what is refused, and in which words."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch

from sparsify_cli.errors import BadRequest, Infeasible, KeyMismatch, NonFinite, UnknownName
from sparsify_cli.maths.choose_masks import check_sparsity, choose_masks, holds, implied_sparsity
from sparsify_cli.maths.matrix_view import obstacle
from sparsify_cli.recipes.allocation import ALLOCATION_NAMES
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.mask_set import MaskSet

RESNET_LIKE = {"conv1": (16, 3, 3, 3), "conv2": (16, 16, 3, 3), "fc": (10, 16)}
"""432 + 2304 + 160 = 2896 weights; the first convolution cannot carry 2:4."""


def chosen(scores, pattern="unstructured", sparsity="0.5", allocation="global", **constraints):
    """Masks as nested lists, for scores given as nested lists."""
    tensors = {name: torch.tensor(values) for name, values in scores.items()}
    masks = choose_masks(tensors, pattern=Pattern.parse(pattern), sparsity=Fraction(sparsity), allocation=allocation, **constraints)
    return {name: masks[name].int().tolist() for name in masks}


def ones(shapes):
    """Equal scores of these shapes."""
    return {name: torch.ones(shape) for name, shape in shapes.items()}


def mask_of(**masks):
    """A mask set from nested lists of 0 and 1."""
    return MaskSet({name: torch.tensor(values, dtype=torch.bool) for name, values in masks.items()})


def test_the_best_stay_overall():
    """Four of eight under one ranking: 9, 8, 7 and 6, three of them in one layer."""
    assert chosen({"a": [[9.0, 1.0], [8.0, 7.0]], "b": [[2.0, 6.0], [3.0, 4.0]]}) == {"a": [[1, 0], [1, 1]], "b": [[0, 1], [0, 0]]}


def test_uniform_keeps_half_of_each():
    """Under uniform allocation each layer keeps its own best two."""
    got = chosen({"a": [[9.0, 1.0], [8.0, 7.0]], "b": [[2.0, 6.0], [3.0, 4.0]]}, allocation="uniform")
    assert got == {"a": [[1, 0], [1, 0]], "b": [[0, 1], [0, 1]]}


def test_ties_do_not_depend_on_the_order_of_tensors():
    """Equal scores: the layer whose name sorts first stays, in whatever order they were given."""
    assert chosen({"b": [[1.0, 1.0]], "a": [[1.0, 1.0]]}) == {"a": [[1, 1]], "b": [[0, 0]]}


def test_two_of_four_run_along_input_channels():
    """A 1x2 kernel over four channels: the groups are the four channels at each of the two positions."""
    scores = [[[[4.0, 1.0]], [[3.0, 2.0]], [[2.0, 3.0]], [[1.0, 4.0]]]]
    assert chosen({"conv": scores}, "2:4") == {"conv": [[[[1, 0]], [[1, 0]], [[0, 1]], [[0, 1]]]]}


def test_one_of_four_keeps_one():
    """1:4 keeps one of four, which is what N:M means here."""
    assert chosen({"fc": [[1.0, 3.0, 2.0, 0.0, 7.0, 6.0, 5.0, 8.0]]}, "1:4", "0.75") == {"fc": [[0, 1, 0, 0, 0, 0, 0, 1]]}


def test_pattern_and_sparsity_both_hold():
    """2:4 at .75: candidates are 9, 8 and 2, 1, so 9 and 8 stay and 7 does not although it beats 2."""
    assert chosen({"fc": [[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 0.0, 0.0]]}, "2:4", "0.75") == {"fc": [[1, 1, 0, 0, 0, 0, 0, 0]]}
    assert chosen({"fc": [[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 0.0, 0.0]]}, "2:4", "0.625") == {"fc": [[1, 1, 0, 0, 0, 1, 0, 0]]}


def test_blocks_stay_or_go_whole():
    """2x1 blocks of sums 5, 6, 3 and 4: the best two."""
    assert chosen({"fc": [[0.0, 3.0, 1.0, 2.0], [5.0, 3.0, 2.0, 2.0]]}, "block:2x1") == {"fc": [[1, 1, 0, 0], [1, 1, 0, 0]]}


def test_blocks_reach_the_nearest_count():
    """16 weights in blocks of 4 at .7: 5 should stay, and one block of 4 is nearest."""
    masks = choose_masks({"fc": torch.ones(4, 4)}, pattern=Pattern.parse("block:2x2"), sparsity=Fraction(7, 10), allocation="uniform")
    assert masks.kept == 4


@pytest.mark.parametrize("allocation", ALLOCATION_NAMES)
def test_layers_that_cannot_carry_stay_dense(allocation):
    """The first convolution stays dense and the other two take over its zeros: 90 % of 2572 is 2314.8, so 2315."""
    shapes = {"conv1": (4, 3, 3, 3), "conv2": (16, 16, 3, 3), "fc": (10, 16)}  # 108 + 2304 + 160 = 2572
    masks = choose_masks(ones(shapes), pattern=Pattern.parse("2:4"), sparsity=Fraction(9, 10), allocation=allocation)
    assert bool(masks["conv1"].all())
    assert masks.total - masks.kept == 2315
    assert masks["conv2"].sum() + masks["fc"].sum() == 2572 - 2315 - 108


def test_a_pattern_alone_implies_its_sparsity():
    """Half of the two layers that carry 2:4, over all three: 1232 of 2896; then every group keeps exactly two."""
    pattern = Pattern.parse("2:4")
    assert implied_sparsity(RESNET_LIKE, pattern) == Fraction(1232, 2896)
    for allocation in ALLOCATION_NAMES:
        masks = choose_masks(ones(RESNET_LIKE), pattern=pattern, sparsity=Fraction(1232, 2896), allocation=allocation)
        assert masks["conv2"].sum(dim=1).flatten().unique().tolist() == [8]
        assert masks["fc"].view(-1, 4).sum(1).unique().tolist() == [2]


@pytest.mark.parametrize("pattern", ["unstructured", "block:4x1"])
def test_other_patterns_imply_nothing(pattern):
    """Unstructured and block patterns force no sparsity."""
    assert implied_sparsity({"fc": (8, 8)}, Pattern.parse(pattern)) == 0


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block:2x2"])
def test_everything_can_be_pruned(pattern):
    """Sparsity 1 keeps nothing."""
    assert choose_masks({"fc": torch.ones(4, 4)}, pattern=Pattern.parse(pattern), sparsity=Fraction(1), allocation="erk").kept == 0


@pytest.mark.parametrize(
    "refuse", [check_sparsity, lambda shapes, p, s: choose_masks(ones(shapes), pattern=p, sparsity=s, allocation="erk")]
)
class TestRefusals:
    """What cannot be done is refused alike with and without scores."""

    def test_less_than_the_pattern_forces(self, refuse):
        """0.3 with 2:4 is an error that says so."""
        with pytest.raises(BadRequest, match=r"Sparsity 0.3 is below what 2:4 forces \(0.5\).*at least 0.5") as caught:
            refuse({"fc": (8, 8)}, Pattern.parse("2:4"), Fraction(3, 10))
        assert caught.value.exit_code == 2

    def test_the_advice_is_enough(self, refuse):
        """The sparsity the message recommends is accepted: 1232/2896 = .42541 is rounded up."""
        with pytest.raises(BadRequest, match=r"at least 0\.4255,"):
            refuse(RESNET_LIKE, Pattern.parse("2:4"), Fraction(42, 100))
        refuse(RESNET_LIKE, Pattern.parse("2:4"), Fraction("0.4255"))
        with pytest.raises(BadRequest):
            refuse(RESNET_LIKE, Pattern.parse("2:4"), Fraction("0.4250"))

    def test_more_than_the_carrying_layers_hold(self, refuse):
        """108 of 268 weights cannot carry 2:4, so .9 is out of reach and 160/268 is the most."""
        with pytest.raises(Infeasible, match=r"at most 0.597015.*`conv1` has 3 input channels.*--skip") as caught:
            refuse({"conv1": (4, 3, 3, 3), "fc": (10, 16)}, Pattern.parse("2:4"), Fraction(9, 10))
        assert caught.value.exit_code == 5

    def test_no_layer_carries_the_pattern(self, refuse):
        """A few obstacles are listed by name and number, and the rest counted."""
        shapes = {f"conv{i}": (4, 3, 3, 3) for i in range(5)}
        with pytest.raises(Infeasible, match=r"No layer can carry 2:4: `conv0` has 3 input channels.*`conv2`.*and 2 more.*another pattern"):
            refuse(shapes, Pattern.parse("2:4"), Fraction(1, 2))

    def test_nothing_to_prune(self, refuse):
        """No tensors at all is a malformed request."""
        with pytest.raises(BadRequest, match="nothing to prune"):
            refuse({}, Pattern(), Fraction(1, 2))


def test_two_of_four_both_ways():
    """Rows and columns keep two of four; of all such masks the one of the highest sum, found by trying all."""
    scores = torch.rand(8, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = choose_masks({"a": scores}, pattern=Pattern.parse("2:4T"), sparsity=Fraction(1, 2), allocation="global")["a"]
    assert mask.sum(1).eq(2).all()
    assert mask.view(2, 4, 4, 3).sum(1).eq(2).all()
    assert holds({"a": mask}, Pattern.parse("2:4T"))
    rows = [row for row in product((0, 1), repeat=4) if sum(row) == 2]
    both = torch.tensor([rows4 for rows4 in product(rows, repeat=4) if all(sum(column) == 2 for column in zip(*rows4, strict=True))])
    block = scores[:4, :, 1]
    assert float((block * mask[:4, :, 1]).sum()) == pytest.approx(float((both * block).sum((1, 2)).max()))


def test_both_ways_is_more_than_one_way():
    """A mask that is 2:4 along rows alone does not hold, and layers with odd outputs cannot carry it."""
    mask = torch.tensor([[1, 1, 0, 0]] * 4, dtype=torch.bool)
    assert holds({"a": mask}, Pattern.parse("2:4"))
    assert not holds({"a": mask}, Pattern.parse("2:4T"))
    assert obstacle((6, 8), Pattern.parse("2:4T")) == "has 6 outputs, not a multiple of 4"
    assert obstacle((6, 8), Pattern.parse("2:4")) is None


def test_both_ways_and_a_sparsity():
    """Three quarters of zeros under 2:4T: the best of what the pattern leaves, at most two of four either way."""
    scores = {"a": torch.rand(8, 8, generator=torch.Generator().manual_seed(1))}
    mask = choose_masks(scores, pattern=Pattern.parse("2:4T"), sparsity=Fraction(3, 4), allocation="global")
    assert int(mask["a"].sum()) == 16
    assert holds(mask, Pattern.parse("2:4T"))


def test_within_only_shrinks():
    """The best weight was pruned before, so the second and third best stay."""
    got = chosen({"a": [[9.0, 8.0, 7.0, 6.0]]}, within=mask_of(a=[[0, 1, 1, 1]]))
    assert got == {"a": [[0, 1, 1, 0]]}


def test_within_reaches_groups():
    """2:4 inside a support: each group picks its two best among what is left."""
    got = chosen({"a": [[9.0, 8.0, 7.0, 6.0]]}, "2:4", within=mask_of(a=[[0, 1, 1, 1]]))
    assert got == {"a": [[0, 1, 1, 0]]}


def test_within_holds_for_layers_that_stay_dense():
    """A layer that cannot carry the pattern gets back nothing it has lost."""
    got = chosen({"a": [[1.0, 1.0, 1.0]], "b": [[4.0, 3.0, 2.0, 1.0]]}, "2:4", "4/7", within=mask_of(a=[[1, 0, 1]]))
    assert got == {"a": [[1, 0, 1]], "b": [[1, 0, 0, 0]]}


def test_within_too_small_is_infeasible():
    """Two may stay where three should."""
    with pytest.raises(Infeasible, match=r"3 weights .* should stay, and only 2 may"):
        chosen({"a": [[9.0, 8.0, 7.0, 6.0]]}, sparsity="0.25", within=mask_of(a=[[0, 0, 1, 1]]))


def test_blocks_outside_the_support_are_gone():
    """A block with one weight lost may not stay."""
    got = chosen({"a": [[9.0, 1.0], [9.0, 1.0]]}, "block:2x1", within=mask_of(a=[[1, 1], [0, 1]]))
    assert got == {"a": [[0, 1], [0, 1]]}


@pytest.mark.parametrize("allocation", ALLOCATION_NAMES)
def test_floor_always_stays(allocation):
    """The worst weight is frozen, so only one other stays."""
    assert chosen({"a": [[9.0, 8.0, 7.0, 6.0]]}, allocation=allocation, floor=mask_of(a=[[0, 0, 0, 1]])) == {"a": [[1, 0, 0, 1]]}


def test_floor_counts_first_in_its_group():
    """Under 2:4 the frozen weight takes one of the two places."""
    got = chosen({"a": [[9.0, 8.0, 7.0, 6.0]]}, "2:4", floor=mask_of(a=[[0, 0, 1, 0]]))
    assert got == {"a": [[1, 0, 1, 0]]}


def test_floor_keeps_its_whole_block():
    """One frozen weight keeps its block."""
    got = chosen({"a": [[9.0, 1.0], [9.0, 1.0]]}, "block:2x1", floor=mask_of(a=[[0, 1], [0, 0]]))
    assert got == {"a": [[0, 1], [0, 1]]}


def test_floor_beats_within():
    """A frozen weight stays even where the support has lost it."""
    got = chosen({"a": [[9.0, 8.0, 7.0, 6.0]]}, floor=mask_of(a=[[1, 0, 0, 0]]), within=mask_of(a=[[0, 1, 1, 1]]))
    assert got == {"a": [[1, 1, 0, 0]]}


def test_floor_beats_within_where_layers_stay_dense():
    """Also in a layer that cannot carry the pattern: its first weight is frozen, its second is lost."""
    floor, within = mask_of(a=[[1, 0, 0]]), mask_of(a=[[0, 0, 1]])
    got = chosen({"a": [[1.0, 1.0, 1.0]], "b": [[4.0, 3.0, 2.0, 1.0]]}, "2:4", "4/7", floor=floor, within=within)
    assert got == {"a": [[1, 0, 1]], "b": [[1, 0, 0, 0]]}


def test_floor_above_the_count_is_infeasible():
    """Three must stay where two should."""
    with pytest.raises(Infeasible, match=r"3 weights .* must stay, and the sparsity asked for leaves 2"):
        chosen({"a": [[9.0, 8.0, 7.0, 6.0]]}, floor=mask_of(a=[[1, 1, 1, 0]]))


def test_floor_that_breaks_a_group_is_infeasible():
    """Three frozen weights in a group that keeps two."""
    with pytest.raises(Infeasible, match=r"1 groups of `a` hold more than 2"):
        chosen({"a": [[9.0, 8.0, 7.0, 6.0], [1.0, 1.0, 1.0, 1.0]]}, "2:4", floor=mask_of(a=[[1, 1, 1, 0], [0, 0, 0, 0]]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_cannot_be_ranked(value):
    """A score that is no finite number is refused by tensor name."""
    with pytest.raises(NonFinite, match="1 scores of `a`"):
        chosen({"a": [[1.0, value]]})


def test_unknown_allocation():
    """An unknown allocation is answered with the list."""
    with pytest.raises(UnknownName, match="allocation 'best'"):
        chosen({"a": [[1.0, 2.0]]}, allocation="best")


@pytest.mark.parametrize("role", ["within", "floor"])
def test_masks_of_another_shape(role):
    """A support of the wrong shape is refused by name."""
    with pytest.raises(KeyMismatch, match=r"mask of `a` has shape \(1, 1\)"):
        chosen({"a": [[1.0, 2.0]]}, **{role: mask_of(a=[[1]])})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_dtype(dtype):
    """Scores of any precision, mixed with float32, rank exactly: 3 and 4 stay."""
    scores = {"a": torch.tensor([[1.0, 4.0]], dtype=dtype), "b": torch.tensor([[2.0, 3.0]])}
    masks = choose_masks(scores, pattern=Pattern(), sparsity=Fraction(1, 2), allocation="global")
    assert [masks[name].tolist() for name in masks] == [[[False, True]], [[False, True]]]


def test_close_scores_are_told_apart():
    """Float64 scores that differ in the twelfth digit, and block sums that float32 would round together, rank exactly."""
    close = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert choose_masks({"a": close}, pattern=Pattern(), sparsity=Fraction(1, 2), allocation="erk")["a"].tolist() == [[False, True]]
    assert chosen({"a": [[2.0**24, 2.0**24], [0.0, 1.0]]}, "block:2x1") == {"a": [[0, 1], [0, 1]]}


def test_scores_are_left_alone():
    """Choosing does not write into scores, also those that carry gradients."""
    scores = torch.nn.Parameter(torch.tensor([[3.0, 1.0, 2.0, 0.0]]))
    choose_masks(
        {"a": scores}, pattern=Pattern.parse("2:4"), sparsity=Fraction(1, 2), allocation="uniform", within=mask_of(a=[[0, 1, 1, 1]])
    )
    assert scores.tolist() == [[3.0, 1.0, 2.0, 0.0]]
