"""Nests: levels by hand, extraction, and asking for a level."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sparsify_cli.errors import BadRequest
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest

SPARSITIES = (Fraction(3, 4), Fraction(1, 2), Fraction(0))


def masks(*rows):
    """One mask set over the tensor `w`."""
    return MaskSet({"w": torch.tensor(rows, dtype=torch.bool)})


LEVELS = [masks([0, 1], [0, 0]), masks([0, 1], [1, 0]), masks([1, 1], [1, 1])]
SIDES = [{"bias": torch.tensor([float(level)])} for level in (1, 2, 3)]
NEST = Nest.of(SPARSITIES, LEVELS, SIDES)


def test_the_index_by_hand():
    """The weight of the sparsest network is of level 1, the one added next of level 2, the rest of level 3."""
    assert NEST.index["w"].tolist() == [[3, 1], [2, 3]]
    assert NEST.index["w"].dtype == torch.uint8
    assert NEST.levels == 3


def test_masks_come_back():
    """Every level's masks are those it was built from: 1, 2 and 4 weights."""
    assert [NEST.masks(level) for level in (1, 2, 3)] == LEVELS
    assert [NEST.masks(level).kept for level in (1, 2, 3)] == [1, 2, 4]


def test_a_weight_of_no_level():
    """What the densest level prunes is in none: 0."""
    nest = Nest.of(SPARSITIES[:2], LEVELS[:2], SIDES[:2])
    assert nest.index["w"].tolist() == [[0, 1], [2, 0]]
    assert nest.masks(2) == LEVELS[1]


def test_extraction_by_hand():
    """Level 2 keeps two weights and brings its own bias; tensors of neither kind pass through."""
    given = {"w": torch.tensor([[5.0, 6.0], [7.0, 8.0]]), "bias": torch.tensor([9.0]), "other": torch.tensor([4.0])}
    found = NEST.extract(given, 2)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"w": [[0.0, 6.0], [7.0, 0.0]], "bias": [2.0], "other": [4.0]}
    assert given["bias"].tolist() == [9.0]


def test_masks_that_do_not_nest_are_refused():
    """A later level that drops a weight of an earlier one is named."""
    with pytest.raises(BadRequest, match="levels 2 and 3"):
        Nest.of(SPARSITIES, [LEVELS[0], LEVELS[1], masks([1, 0], [1, 1])], SIDES)


@pytest.mark.parametrize(("asked", "level"), [("0.75", 1), ("0.5", 2), (".5", 2), ("0.50", 2), ("0", 3), ("1", 1), ("2", 2), ("3", 3)])
def test_a_level_is_found_by_sparsity_or_number(asked, level):
    """Sparsities are compared exactly; a whole number from 1 on is a level."""
    assert NEST.find(asked) == level


@pytest.mark.parametrize("asked", ["0.8", "4", "-1", "x", "", "1/0", "²", "75%", "nan"])
def test_a_level_that_is_not_there_lists_those_that_are(asked):
    """Every embedded sparsity with its number."""
    with pytest.raises(BadRequest, match=r"0\.75 \(level 1\), 0\.5 \(level 2\), 0 \(level 3\)"):
        NEST.find(asked)
