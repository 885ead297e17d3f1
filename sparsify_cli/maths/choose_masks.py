"""From scores to masks: counts first, in integers, then positions by stable order of the score.

The overall count holds exactly (to one block for block patterns) and the pattern holds in every group. Layers whose
shape cannot carry the pattern stay dense, and the others take over their zeros.

    units        weights, or whole blocks; a block's score is the sum of its weights'
    candidates   for N:M, the N best of each group; a layer's count is filled from them
    within       only positions kept there may stay: the support shrinks, as gradual pruning needs
    floor        positions kept there always stay, and count first in their group

Ties: among equal scores the layer whose name sorts first, then the earlier position of the matrix view, stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sparsify_cli.errors import BadRequest, Infeasible, KeyMismatch, NonFinite
from sparsify_cli.maths.allocate import ALLOCATIONS, Allocation, Layer, Sized, with_floor
from sparsify_cli.maths.keep import keep_count, top_k, zeros_count
from sparsify_cli.maths.matrix_view import from_blocks, from_matrix, matrix_shape, obstacle, to_blocks, to_matrix
from sparsify_cli.maths.usable import best
from sparsify_cli.recipes.allocation import NEEDS_COSTS, parse_allocation
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.mask_set import MaskSet

Shapes = Mapping[str, tuple[int, ...]]
"""name -> shape of every prunable tensor."""


def choose_masks(
    scores: Mapping[str, Tensor],
    *,
    pattern: Pattern,
    sparsity: Fraction,
    allocation: str | Allocation,
    within: MaskSet | None = None,
    floor: MaskSet | None = None,
    at_least: int = 0,
) -> MaskSet:
    """Choose which weights stay.

    Args:
        scores: every prunable tensor's scores by name, finite, higher = keep.
        pattern: holds in every group of every layer whose shape can carry it.
        sparsity: fraction of zeros over all prunable weights, in [0, 1].
        allocation: a name of `ALLOCATIONS`, or a function of their form, as those that know measured costs.
        within: positions that may stay; a tensor it does not name may stay everywhere.
        floor: positions that always stay, also outside `within`.
        at_least: units that every layer that carries the pattern keeps, its best ones, so that none is emptied.

    Returns:
        A mask for every tensor of `scores`, True = kept.

    Raises:
        BadRequest: the sparsity is below what the pattern forces, or a name, shape or score makes no sense.
        Infeasible: no layer carries the pattern, or the count cannot be reached.
    """
    constraints = _Constraints(pattern, within or MaskSet(), floor or MaskSet())
    shapes = {name: tuple(tensor.shape) for name, tensor in scores.items()}
    share_out = _sharing(allocation) if isinstance(allocation, str) else allocation
    able = carrying(shapes, pattern)
    check_forced(shapes, pattern, sparsity)
    masks = {name: constraints.allowed(name, scores[name]) for name in shapes if name not in able}
    total = units_to_keep(shapes, pattern, sparsity, sum(int(mask.sum()) for mask in masks.values()))
    layers = [constraints.layer(name, scores[name]) for name in able]
    check_room(layers, total)
    layers = with_floor(layers, at_least)
    check_none_is_emptied(layers, total, at_least)
    for layer, count in zip(layers, share_out(layers, total), strict=True):
        masks[layer.name] = _mask(layer, count, pattern)
    return MaskSet(masks)


def layers_of(
    scores: Mapping[str, Tensor], *, pattern: Pattern, within: MaskSet | None = None, floor: MaskSet | None = None, at_least: int = 0
) -> tuple[list[Layer], int]:
    """The layers that carry the pattern, as an allocation takes them, sorted by name; and how many weights stay in the others.

    Args:
        scores, pattern, within, floor, at_least: as for `choose_masks`.
    """
    constraints = _Constraints(pattern, within or MaskSet(), floor or MaskSet())
    able = carrying({name: tuple(tensor.shape) for name, tensor in scores.items()}, pattern)
    dense = sum(int(constraints.allowed(name, scores[name]).sum()) for name in scores if name not in able)
    return with_floor([constraints.layer(name, scores[name]) for name in able], at_least), dense


def _sharing(name: str) -> Allocation:
    if parse_allocation(name) in NEEDS_COSTS:
        raise BadRequest(
            f"The allocation {name} needs each layer's error at several levels.",
            "It weighs measured errors, and no calibration data gave any.",
            "Choose one that scores are enough for, for example lamp.",
        )
    return ALLOCATIONS[name]


def implied_sparsity(shapes: Shapes, pattern: Pattern) -> Fraction:
    """The least sparsity over all prunable weights: each group keeps N of M, layers that cannot carry N:M stay dense.

    Raises:
        Infeasible: no layer can carry the pattern.
    """
    forced = _weights(shapes, carrying(shapes, pattern)) * pattern.implied_sparsity
    return forced / max(1, _weights(shapes, shapes))


def least_sparsity(
    scores: Mapping[str, Tensor], *, pattern: Pattern, within: MaskSet | None = None, floor: MaskSet | None = None
) -> Fraction:
    """The least sparsity over all prunable weights that the pattern and the current support allow.

    Args:
        scores: every prunable tensor's scores by name.
        pattern: of every layer whose shape can carry it.
        within: positions that may stay.
        floor: positions that always stay.
    """
    constraints = _Constraints(pattern, within or MaskSet(), floor or MaskSet())
    shapes = {name: tuple(scores[name].shape) for name in sorted(scores)}
    able = carrying(shapes, pattern)
    kept = sum(constraints.layer(name, scores[name]).cap * pattern.block_size for name in able)
    kept += sum(int(constraints.allowed(name, scores[name]).sum()) for name in shapes if name not in able)
    return 1 - Fraction(kept, max(1, _weights(shapes, shapes)))


def holds(masks: Mapping[str, Tensor], pattern: Pattern) -> bool:
    """True when every mask whose shape can carry the pattern keeps at most N of each M, and whole blocks only."""
    fitting = [to_matrix(mask) for mask in masks.values() if obstacle(tuple(mask.shape), pattern) is None]
    if pattern.is_grouped:
        ways = [way for matrix in fitting for way in ((matrix, matrix.T) if pattern.transposed else (matrix,))]
        return all(int(way.reshape(-1, pattern.group).sum(1).max()) <= pattern.keep for way in ways)
    blocks = [to_blocks(matrix, pattern.rows, pattern.columns) for matrix in fitting]
    return all(bool((block.all(1) == block.any(1)).all()) for block in blocks)


def check_sparsity(shapes: Shapes, pattern: Pattern, sparsity: Fraction) -> None:
    """Refuse a request that no scores could satisfy, before any are computed.

    Raises:
        BadRequest: the sparsity is below what the pattern forces.
        Infeasible: no layer carries the pattern, or those that do are too few.
    """
    able = carrying(shapes, pattern)
    check_forced(shapes, pattern, sparsity)
    units_to_keep(shapes, pattern, sparsity, _weights(shapes, shapes) - _weights(shapes, able))


@dataclass(frozen=True)
class _Constraints:
    """Where weights may and must stay."""

    pattern: Pattern
    within: MaskSet
    floor: MaskSet

    def allowed(self, name: str, scores: Tensor) -> Bool[Tensor, "..."]:
        """Positions that may stay."""
        inside = _fitting(self.within, name, scores)
        return torch.ones_like(scores, dtype=torch.bool) if inside is None else inside | self._always(name, scores)

    def layer(self, name: str, scores: Tensor) -> Layer:
        """The layer's unit scores: -inf where a unit may not stay, +inf where it must, its own elsewhere."""
        _check_finite(name, scores)
        precise = scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
        values = self._units(precise).sum(1)
        if name in self.within:
            values = values.masked_fill(~self._units(self.allowed(name, scores)).all(1), -torch.inf)
        if name in self.floor:
            values = values.masked_fill(self._units(self._always(name, scores)).any(1), torch.inf)
        shape = tuple(scores.shape)
        return Layer(name, shape, self._candidates(name, values, matrix_shape(shape)) if self.pattern.is_grouped else values)

    def _always(self, name: str, scores: Tensor) -> Bool[Tensor, "..."]:
        frozen = _fitting(self.floor, name, scores)
        return torch.zeros_like(scores, dtype=torch.bool) if frozen is None else frozen

    def _units(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "units size"]:
        precise = tensor.double() if self.pattern.block_size > 1 and tensor.is_floating_point() else tensor
        return to_blocks(to_matrix(precise), self.pattern.rows, self.pattern.columns)

    def _candidates(self, name: str, values: Float[Tensor, " units"], shape: tuple[int, int]) -> Float[Tensor, " units"]:
        matrix = values.view(shape)
        fit = best(matrix, matrix.numel() * self.pattern.keep // self.pattern.group, self.pattern)
        crowded = int(((matrix == torch.inf) & ~fit).view(-1, self.pattern.group).any(1).sum())
        if crowded:
            raise Infeasible(
                f"{crowded} groups of `{name}` hold more than {self.pattern.keep} weights that must stay.",
                f"The pattern {self.pattern} keeps {self.pattern.keep} of {self.pattern.group}.",
            )
        return matrix.masked_fill(~fit, -torch.inf).flatten()


def _mask(layer: Layer, count: int, pattern: Pattern) -> Bool[Tensor, "..."]:
    kept = top_k(layer.scores, count)[:, None].expand(-1, pattern.block_size)
    return from_matrix(from_blocks(kept, matrix_shape(layer.shape), pattern.rows, pattern.columns), layer.shape)


def units_to_keep(shapes: Shapes, pattern: Pattern, sparsity: Fraction, dense: int) -> int:
    """Units that stay in the layers that carry the pattern, when `dense` weights stay in the others.

    Raises:
        Infeasible: the layers that carry it are too few.
    """
    total = _weights(shapes, shapes)
    units = round(Fraction(keep_count(total, sparsity) - dense, pattern.block_size))
    if units < 0:
        raise Infeasible(
            f"Sparsity {_shown(sparsity)} cannot be reached with {pattern}: at most {_shown(Fraction(total - dense, total))} can.",
            f"Layers that cannot carry the pattern stay dense: {_obstacles(shapes, pattern)}.",
            "Ask for less, --skip those layers, or choose another pattern.",
        )
    return units


def carrying(shapes: Shapes, pattern: Pattern) -> list[str]:
    """Names, sorted, of the tensors whose shape can carry the pattern.

    Raises:
        BadRequest: there are no tensors.
        Infeasible: none can.
    """
    if not shapes:
        raise BadRequest("There is nothing to prune.", "No prunable tensor was found or all were skipped.")
    able = [name for name in sorted(shapes) if obstacle(shapes[name], pattern) is None]
    if not able:
        raise Infeasible(
            f"No layer can carry {pattern}: {_obstacles(shapes, pattern)}.",
            f"It means: {pattern.describe()}.",
            "Choose another pattern; with one that some layers can carry, --skip leaves the others out of the count.",
        )
    return able


def check_forced(shapes: Shapes, pattern: Pattern, sparsity: Fraction) -> None:
    """Refuse a sparsity below the one the pattern forces.

    Raises:
        BadRequest: with the least that can be asked for.
    """
    forced, total = implied_sparsity(shapes, pattern), _weights(shapes, shapes)
    if zeros_count(total, sparsity) < zeros_count(total, forced):
        enough = Fraction(math.ceil(forced * 10_000), 10_000)
        raise BadRequest(
            f"Sparsity {_shown(sparsity)} is below what {pattern} forces ({_shown(forced)}).",
            f"The pattern means: {pattern.describe()}.",
            f"Ask for at least {_shown(enough)}, or give the pattern alone.",
        )


def check_room(layers: Sequence[Sized], total: int) -> None:
    """Refuse a number of units that the layers' bounds leave no room for.

    Raises:
        Infeasible: too few may or too many must stay.
    """
    least, most = sum(layer.floor for layer in layers), sum(layer.cap for layer in layers)
    if total < least:
        raise Infeasible(
            f"{least} weights (or blocks) must stay, and the sparsity asked for leaves {total}.",
            "Frozen positions are never pruned.",
            "Ask for less sparsity.",
        )
    if total > most:
        raise Infeasible(
            f"{total} weights (or blocks) should stay, and only {most} may.",
            "The others are pruned already, and the support only shrinks.",
            "Ask for more sparsity.",
        )


def check_none_is_emptied(layers: Sequence[Sized], total: int, at_least: int) -> None:
    """Refuse a number of units that is too few for every layer to keep some.

    Args:
        layers: with floors raised by `with_floor`.
        total: units that stay.
        at_least: what the floors were raised to.

    Raises:
        Infeasible: with the least number of units.
    """
    least, units = sum(layer.floor for layer in layers), sum(layer.units for layer in layers)
    if total < least:
        enough = Fraction(math.floor((1 - Fraction(least, max(1, units))) * 10**6), 10**6)
        raise Infeasible(
            f"Only {total} weights (or blocks) would stay in {len(layers)} layers, and {least} must.",
            f"Every layer keeps at least {at_least}: an empty one would cut the network.",
            f"Ask for at most {_shown(enough)} of zeros in the layers that carry the pattern.",
        )


def _check_finite(name: str, scores: Tensor) -> None:
    if not bool(scores.isfinite().all()):
        raise NonFinite(f"{int((~scores.isfinite()).sum())} scores of `{name}` are NaN or infinite.", "They cannot be ranked.")


def _fitting(masks: MaskSet, name: str, scores: Tensor) -> Tensor | None:
    if name not in masks:
        return None
    if masks[name].shape != scores.shape:
        raise KeyMismatch(f"The mask of `{name}` has shape {tuple(masks[name].shape)}, its scores {tuple(scores.shape)}.")
    return masks[name].to(scores.device)


def _weights(shapes: Shapes, names: Iterable[str]) -> int:
    return sum(math.prod(shapes[name]) for name in names)


def _obstacles(shapes: Shapes, pattern: Pattern) -> str:
    reasons = [f"`{name}` {reason}" for name in sorted(shapes) if (reason := obstacle(shapes[name], pattern))]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return "; ".join(reasons[:3]) + more


def _shown(fraction: Fraction) -> str:
    return f"{float(fraction):.6g}"
