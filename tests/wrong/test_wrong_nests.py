"""Known-wrong nests that the same check rejects: each loses something of the networks that were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest

SHAPES = {"conv.weight": (6, 4, 3, 3), "fc.weight": (5, 7)}
SPARSITIES = (Fraction(9, 10), Fraction(1, 2), Fraction(1, 5))
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """What training left: for each level its masks and the whole state of its network."""

    masks: tuple[MaskSet, ...]
    networks: tuple[Tensors, ...]


Train = Callable[[int], Trained]
Build = Callable[[Trained], Nest]
Extract = Callable[[Nest, Tensors, int], Tensors]


def ours(seed: int) -> Trained:
    """Levels as partial weight freezing leaves them: supports grow, values of a level stay, biases are each level's own."""
    return _trained(seed)


def dropping(seed: int) -> Trained:
    """Each level picks its weights by scores that know nothing of the level before: some of its weights are dropped."""
    return _trained(seed, nested=False)


def moving(seed: int) -> Trained:
    """Supports grow, but weight decay shrinks what should be frozen by one part in ten thousand."""
    return _trained(seed, decay=1e-4)


def _trained(seed: int, *, nested: bool = True, decay: float = 0.0) -> Trained:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    kept = MaskSet({name: torch.zeros(shape, dtype=torch.bool) for name, shape in SHAPES.items()})
    masks, networks = [], []
    for sparsity in SPARSITIES:
        new = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        weights = {name: torch.where(kept[name], weights[name] * (1 - decay), new[name]) for name in SHAPES}
        scores = {name: weights[name].abs() + kept[name] * 1e3 if nested else new[name].abs() for name in SHAPES}
        kept = MaskSet({name: _largest(scores[name], sparsity) for name in SHAPES})
        masks.append(kept)
        side = {"fc.bias": torch.randn(5, generator=generator), "bn.running_mean": torch.randn(6, generator=generator)}
        networks.append({**kept.apply(weights), **side})
    return Trained(tuple(masks), tuple(networks))


def _largest(scores: Tensor, sparsity: Fraction) -> Tensor:
    count = scores.numel() - round(scores.numel() * sparsity)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().topk(count).indices] = True
    return mask.reshape(scores.shape)


def _sides(trained: Trained) -> list[Tensors]:
    return [{name: tensor for name, tensor in network.items() if name not in SHAPES} for network in trained.networks]


def build(trained: Trained) -> Nest:
    """Ours."""
    return Nest.of(SPARSITIES, trained.masks, _sides(trained))


def extract(nest: Nest, stored: Tensors, level: int) -> Tensors:
    """Ours."""
    return nest.extract(stored, level)


def unchecked(trained: Trained) -> Nest:
    """Never asks whether the masks nest."""
    index = {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in SHAPES.items()}
    for level in range(len(SPARSITIES), 0, -1):
        for name, mask in trained.masks[level - 1].items():
            index[name][mask] = level
    return Nest(SPARSITIES, index, tuple(_sides(trained)))


def overwritten(trained: Trained) -> Nest:
    """A weight's level is the last one it belongs to instead of the first."""
    index = {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in SHAPES.items()}
    for level, masks in enumerate(trained.masks, 1):
        for name, mask in masks.items():
            index[name][mask] = level
    return Nest(SPARSITIES, index, tuple(_sides(trained)))


def one_side_for_all(trained: Trained) -> Nest:
    """Only the densest level's batch norm and biases are kept."""
    return Nest.of(SPARSITIES, trained.masks, [_sides(trained)[-1]] * len(SPARSITIES))


def side_forgotten(nest: Nest, stored: Tensors, level: int) -> Tensors:
    """Masks the weights and leaves the rest as it is stored."""
    return nest.masks(level).apply(stored)


def one_level_only(nest: Nest, stored: Tensors, level: int) -> Tensors:
    """Takes the weights that a level added, without those below it."""
    masks = MaskSet({name: index == level for name, index in nest.index.items()})
    return {**masks.apply(stored), **nest.side[level - 1]}


def one_level_too_many(nest: Nest, stored: Tensors, level: int) -> Tensors:
    """Counts levels from 0 in one place and from 1 in the other."""
    return {**nest.masks(min(level + 1, nest.levels)).apply(stored), **nest.side[level - 1]}


def nothing_masked(nest: Nest, stored: Tensors, level: int) -> Tensors:
    """Brings the side state and forgets the masks."""
    return {**stored, **nest.side[level - 1]}


def holds(train: Train, build: Build, extract: Extract, seed: int) -> bool:
    """Whether every level comes out of the one stored network exactly as it was trained, nested, with exact counts."""
    trained = train(seed)
    try:
        nest = build(trained)
    except BadRequest:
        return False
    masks = [nest.masks(level) for level in range(1, nest.levels + 1)]
    counts = [sum(t.numel() - round(t.numel() * sparsity) for t in one.values()) for one, sparsity in zip(masks, SPARSITIES, strict=True)]
    if [one.kept for one in masks] != counts or not all(small <= large for small, large in pairwise(masks)):
        return False
    found = [extract(nest, trained.networks[-1], level) for level in range(1, nest.levels + 1)]
    return all(
        one.keys() == network.keys() and all(torch.equal(one[name], network[name]) for name in network)
        for one, network in zip(found, trained.networks, strict=True)
    )


WRONG: dict[str, tuple[Train, Build, Extract]] = {
    "a later level drops a weight": (dropping, build, extract),
    "a later level drops a weight and nobody looks": (dropping, unchecked, extract),
    "frozen weights decay": (moving, build, extract),
    "levels overwritten": (ours, overwritten, extract),
    "one side state for all": (ours, one_side_for_all, extract),
    "side state forgotten": (ours, build, side_forgotten),
    "one level only": (ours, build, one_level_only),
    "one level too many": (ours, build, one_level_too_many),
    "nothing masked": (ours, build, nothing_masked),
}


@pytest.mark.parametrize("seed", range(3))
def test_our_nest_passes(seed: int) -> None:
    """Freezing, one integer a weight, private side state: exact."""
    assert holds(ours, build, extract, seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_nest_is_rejected(name: str, seed: int) -> None:
    """The same check refuses each of them."""
    assert not holds(*WRONG[name], seed)
