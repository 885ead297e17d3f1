"""Pruning in stages: a part of the way, repair, look at the curvature again where the network is now, and on.

The share of the way after stage s of S is s / S; who chooses the masks turns it into a density of (final density)^(s/S), so that each
stage keeps the same part of what the one before left. One stage is one shot. After each stage pruned weights are exactly zero.

Source: Singh and Alistarh 2020 (arXiv 2004.14340), section 5 (recomputing the matrix along a schedule), here without training
in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sparsify_cli.maths.empirical_fisher import Blocks, Order
from sparsify_cli.maths.m_fac import InverseProducts, repaired_by_gradients
from sparsify_cli.maths.woodbury import block_inverse, parts, repaired_blocks
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network

Weights = Mapping[str, Tensor]
Costs = Callable[[Tensor, Tensor, int], Tensor]
"""(weights by block, inverse by block, unit) -> cost of each weight's removal."""


class Curvature(Protocol):
    """A quadratic model of the loss around the weights as they are."""

    def scores(self, weights: Weights) -> dict[str, Tensor]:
        """What each weight's removal costs, >= 0, 0 where it is zero already."""
        ...

    def repaired(self, weights: Weights, masks: MaskSet) -> dict[str, Tensor]:
        """The weights, zero where pruned, the others moved so that the model's loss is least."""
        ...


def prune_in_stages(
    network: Network,
    choose: Callable[[Mapping[str, Tensor], Fraction], MaskSet],
    curvature: Callable[[int], Curvature],
    *,
    stages: int,
    update: bool,
) -> MaskSet:
    """Prune the network's own weights.

    Args:
        network: its weights are set.
        choose: scores and share of the way -> masks.
        curvature: stage, from 0 -> the model of the loss for the network as it is then.
        stages: how many.
        update: whether weights that stay are repaired.

    Returns:
        The last masks.
    """
    masks = MaskSet()
    for stage in range(stages):
        masks = _stage(network, choose, Fraction(stage + 1, stages), partial(curvature, stage), update=update)
    return masks


def _stage(
    network: Network,
    choose: Callable[[Mapping[str, Tensor], Fraction], MaskSet],
    share: Fraction,
    curvature: Callable[[], Curvature],
    *,
    update: bool,
) -> MaskSet:
    """One of them; its model is gone before the next one is made, for there is memory for one."""
    model, weights = curvature(), network.weights()
    masks = choose(model.scores(weights), share)
    network.put(model.repaired(weights, masks) if update else masks.apply(weights))
    return masks


@dataclass(frozen=True, eq=False)
class BlockCurvature:
    """A Fisher matrix in blocks on the diagonal.

    Args:
        fisher: its blocks.
        orders: name -> how a tensor is flattened.
        costs: of removals.
    """

    fisher: Blocks
    orders: Mapping[str, Order]
    costs: Costs

    def scores(self, weights: Weights) -> dict[str, Tensor]:
        """Costs of removal, float64, in the tensors' shapes."""
        return {name: self._scores(name, weight) for name, weight in weights.items()}

    def repaired(self, weights: Weights, masks: MaskSet) -> dict[str, Tensor]:
        """Repair every block."""
        return {name: self._repaired(name, weight, masks[name]) for name, weight in weights.items()}

    def _scores(self, name: str, weight: Tensor) -> Tensor:
        order, gram = self.orders[name], self.fisher.grams[name]
        values = _in_blocks(order.flat(weight).double(), gram)
        found = [self.costs(values[some], block_inverse(gram[some], self.fisher.damping), order.unit) for some in parts(gram)]
        return order.shaped(torch.cat(found).reshape(-1)[: weight.numel()])

    def _repaired(self, name: str, weight: Tensor, mask: Tensor) -> Tensor:
        order, gram = self.orders[name], self.fisher.grams[name]
        values, kept = _in_blocks(order.flat(weight).double(), gram), _in_blocks(order.flat(mask), gram)
        found = [repaired_blocks(values[some], gram[some], self.fisher.damping, kept[some]) for some in parts(gram)]
        return order.shaped(torch.cat(found).reshape(-1)[: weight.numel()])


@dataclass(frozen=True, eq=False)
class GradientCurvature:
    """A Fisher matrix over all weights of all tensors, as the gradients it is made of.

    Args:
        gradients: [m, d], tensor after tensor, zero at weights that are zero.
        damping: absolute.
    """

    gradients: Tensor
    damping: float

    def scores(self, weights: Weights) -> dict[str, Tensor]:
        """w^2 / (2 [F^-1]_ii), float64, in the tensors' shapes."""
        flat = _flat(weights)
        return _shaped(flat.square() / (2 * InverseProducts.of(self.gradients, self.damping).diagonal()), weights)

    def repaired(self, weights: Weights, masks: MaskSet) -> dict[str, Tensor]:
        """Repair all tensors together."""
        kept = torch.cat([masks[name].reshape(-1) for name in weights])
        return _shaped(repaired_by_gradients(_flat(weights), self.gradients, self.damping, kept), weights)


def _in_blocks(flat: Tensor, gram: Tensor) -> Tensor:
    return torch.nn.functional.pad(flat, (0, len(gram) * gram.shape[-1] - len(flat))).reshape(len(gram), -1)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([weight.reshape(-1).double() for weight in weights.values()])


def _shaped(flat: Tensor, weights: Weights) -> dict[str, Tensor]:
    pieces = flat.split([weight.numel() for weight in weights.values()])
    return {name: piece.reshape(weight.shape) for (name, weight), piece in zip(weights.items(), pieces, strict=True)}
