"""Sparsifier: a recipe's criterion, allocation and pattern, closed over; what pruning and training choose masks with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from torch import Tensor

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.errors import BadRequest, Infeasible, NonFinite
from sparsify_cli.maths.allocate import Allocation, Layer
from sparsify_cli.maths.choose_masks import choose_masks, holds, layers_of, least_sparsity
from sparsify_cli.maths.keep import zeros_count
from sparsify_cli.maths.matrix_view import obstacle
from sparsify_cli.maths.orientation import inputs_first, outputs_first
from sparsify_cli.recipes.allocation import NEEDS_COSTS
from sparsify_cli.recipes.duration import decimal
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.shared import SparsityFields
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.small_floats import computable
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Sparsifier:
    """Chooses masks for named weights.

    Args:
        names: prunable tensors.
        criterion: ranks weights.
        allocation: shares zeros among layers.
        pattern: holds in every group.
        floor: positions that always stay (frozen weights).
        stats: what calibration saw; empty for a criterion that needs nothing.
        turned: tensors that are stored [in, out / groups], and their groups; it matters to patterns, which run along inputs.
        at_least: weights (or blocks) that every layer keeps.
        freely: the allocation without the budget that `allocation` meets; None = there is no budget.
        fitting: how the budget is met by layers with other scores.
    """

    names: tuple[str, ...]
    criterion: Criterion
    allocation: str | Allocation
    pattern: Pattern
    floor: MaskSet = field(default_factory=MaskSet)
    stats: Stats = field(default_factory=Stats)
    turned: Mapping[str, int] = field(default_factory=dict)
    at_least: int = 0
    freely: str | Allocation | None = None
    fitting: Callable[[Sequence[Layer]], list[int]] | None = None

    def __call__(self, weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
        """Masks with `sparsity` zeros, or the least that pattern and support allow (N:M holds from the first pruning on)."""
        scores = self.scores({name: weights[name] for name in self.names})
        return _over(within, self.chosen(scores, max(sparsity, self.least(scores, within)), within))

    @property
    def follows(self) -> tuple[str, ...]:
        """All its weights, where the criterion ranks by movement."""
        return self.names if "movement" in self.criterion.needs else ()

    def knowing(self, movement: Mapping[str, Tensor]) -> Sparsifier:
        """The same choice, by the movement that training has gathered so far."""
        return replace(self, stats=replace(self.stats, movement=movement))

    def above(self, floor: MaskSet) -> Sparsifier:
        """The same choice that never drops what `floor` keeps."""
        return replace(self, floor=floor)

    def once(self, weights: Mapping[str, Tensor], sparsity: Fraction, *, pruned: MaskSet) -> MaskSet:
        """One-shot masks with exactly `sparsity` zeros; what was pruned before stays pruned.

        Raises:
            BadRequest: the sparsity is below what the pattern forces, or below what is pruned already.
            Infeasible: the pattern or the count cannot be reached.
        """
        scores = self.scores({name: weights[name] for name in self.names})
        total = sum(score.numel() for score in scores.values())
        least = self.least(scores, pruned) if pruned else Fraction(0)
        if pruned and zeros_count(total, sparsity) < zeros_count(total, least):
            raise below_pruned(sparsity, self.pattern, least)
        chosen = self.chosen(scores, sparsity, pruned if pruned else None)
        if self.criterion.joint:
            _require_spared(scores, chosen, pruned)
        return _over(pruned, chosen)

    def target(self, weights: Mapping[str, Tensor], sparsity: Fraction | None, *, pruned: MaskSet) -> Fraction:
        """The sparsity that is meant: the one asked for, or what the pattern alone implies within what is left.

        Raises:
            BadRequest: neither a sparsity nor a pattern that implies one was given.
        """
        if sparsity is not None:
            return sparsity
        if self.pattern.implied_sparsity == 0:
            raise no_target(self.pattern)
        scores = self.scores({name: weights[name] for name in self.names})
        return self.least(scores, pruned or None)

    def keeping(self, weights: Mapping[str, Tensor], pruned: MaskSet) -> Callable[[str, int], Tensor]:
        """Name and count -> the mask of this tensor alone that keeps so many of what is left, or as many as the pattern lets stay."""
        scores = self.scores({name: weights[name] for name in self.names})

        def kept(name: str, count: int) -> Tensor:
            alone, given = replace(self, names=(name,), allocation="uniform", floor=MaskSet(), at_least=0), {name: scores[name]}
            if obstacle(tuple(self._oriented(given)[name].shape), self.pattern):
                alone = replace(alone, pattern=Pattern())
            within = MaskSet({name: pruned[name]}) if name in pruned else None
            least = alone.least(given, within)
            return alone.chosen(given, max(1 - Fraction(count, scores[name].numel()), least), within)[name]

        return kept

    def carrying(self, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Which of its tensors can carry the pattern."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self._oriented({name: weights[name] for name in self.names}).items()}
        return tuple(name for name, shape in shapes.items() if obstacle(shape, self.pattern) is None)

    def layers(self, weights: Mapping[str, Tensor], pruned: MaskSet) -> tuple[list[Layer], int]:
        """The layers that carry the pattern, as an allocation takes them, and how many weights stay in the others."""
        return self.layers_by(self.scores({name: weights[name] for name in self.names}), pruned)

    def layers_by(self, scores: Mapping[str, Tensor], pruned: MaskSet) -> tuple[list[Layer], int]:
        """The same with other scores than the criterion's."""
        inside, floor = (MaskSet(self._oriented(m)) if m else None for m in (pruned, self.floor))
        return layers_of(self._oriented(scores), pattern=self.pattern, within=inside, floor=floor, at_least=self.at_least)

    def require_held(self, masks: MaskSet, target: Fraction) -> None:
        """Make sure that the masks of this sparsifier's tensors hold the sparsity and the pattern.

        Raises:
            Infeasible: they do not.
        """
        require_held(MaskSet(self._oriented({name: masks[name] for name in self.names})), target, self.pattern)

    def is_held(self, masks: MaskSet, target: Fraction) -> bool:
        """Whether masks hold the sparsity and the pattern."""
        try:
            self.require_held(MaskSet({name: mask.cpu() for name, mask in masks.items()}), target)
        except (Infeasible, KeyError):
            return False
        return True

    def least(self, scores: Mapping[str, Tensor], within: MaskSet | None) -> Fraction:
        """The least sparsity that pattern and support allow."""
        inside, floor = (None if m is None else MaskSet(self._oriented(m)) for m in (within, self.floor))
        return least_sparsity(self._oriented(scores), pattern=self.pattern, within=inside, floor=floor)

    def chosen(self, scores: Mapping[str, Tensor], sparsity: Fraction, within: MaskSet | None) -> MaskSet:
        """Masks by these scores; within nothing or none: everything may stay."""
        inside, floor = (None if m is None else MaskSet(self._oriented(m)) for m in (within, self.floor))
        chosen = choose_masks(
            self._oriented(scores),
            pattern=self.pattern,
            sparsity=sparsity,
            allocation=self.allocation,
            within=inside,
            floor=floor,
            at_least=self.at_least,
        )
        return MaskSet({name: mask.contiguous() for name, mask in self._oriented(chosen).items()})

    def _oriented(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors as [out, in / groups, *kernel] where a pattern needs it, or back: turning twice changes nothing."""
        turned = self.turned if self.pattern != Pattern() else {}
        return {name: outputs_first(tensor, turned.get(name)) for name, tensor in tensors.items()}

    def scores(self, weights: Mapping[str, Tensor]) -> Scores:
        """What the criterion says of these weights, in the shapes in which they are stored.

        Raises:
            NonFinite: a score is not finite.
        """
        turned = self.turned if self.criterion.directed else {}
        given = {name: outputs_first(computable(weight), turned.get(name)) for name, weight in weights.items()}
        found = self.criterion.scores(given, self.stats)
        scores = {name: inputs_first(score, turned.get(name)) for name, score in found.items()}
        bad = [name for name, score in scores.items() if not bool(torch.isfinite(score).all())]
        if bad:
            raise NonFinite(f"The criterion gives scores that are not finite for {len(bad)} tensors, first {bad[0]}.")
        return scores


def sparsifier(
    recipe: SparsityFields,
    names: Sequence[str],
    *,
    stats: Stats | None = None,
    turned: Mapping[str, int] | None = None,
    at_least: int = 0,
) -> Sparsifier:
    """The sparsifier a recipe describes.

    Args:
        recipe: criterion, allocation and pattern.
        names: prunable tensors.
        stats: what calibration saw; None in verbs that do not calibrate.
        turned: tensors that are stored [in, out / groups], and their groups.
        at_least: weights (or blocks) that every layer keeps.

    Raises:
        BadRequest: the criterion needs calibration and the verb does not calibrate.
    """
    criterion = strategy("criteria", recipe.criterion, seed=recipe.seed)
    if criterion.needs - {"movement"} and stats is None:
        raise BadRequest(
            f"The criterion {recipe.criterion.name} needs to see the inputs of layers.",
            f"`{recipe.verb}` ranks weights while they train, and does not calibrate.",
            f"Prune with it first (sparsify prune --criterion {recipe.criterion.name}), or choose another --criterion.",
        )
    allocation = shared_by(criterion) if recipe.allocation == "auto" else recipe.allocation
    if criterion.joint:
        _require_one_ranking(recipe, allocation)
    if allocation in NEEDS_COSTS and stats is None:
        raise BadRequest(
            f"The allocation {allocation} weighs measured errors of layers.",
            f"`{recipe.verb}` changes weights while they train, and measures none.",
            "Choose another --allocation, or prune with it first.",
        )
    return Sparsifier(tuple(names), criterion, allocation, recipe.pattern, stats=stats or Stats(), turned=turned or {}, at_least=at_least)


def shared_by(criterion: Criterion) -> str:
    """The allocation by scores alone: one ranking, or the same share for each layer where scores of different ones do not compare."""
    return "global" if criterion.comparable else "uniform"


def _require_spared(scores: Scores, chosen: MaskSet, pruned: MaskSet) -> None:
    """Refuse masks that take what a joint criterion ranks above all: what cannot go as a whole.

    Raises:
        Infeasible: with the most that can go.
    """
    highest = max(float(score.max()) for score in scores.values())
    spared = {name: score == highest for name, score in scores.items()}
    taken = {name: spared[name] & ~chosen[name] & pruned.get(name, True) for name in scores}
    if any(bool(one.any()) for one in taken.values()):
        total = sum(score.numel() for score in scores.values())
        most = 1 - sum(int((one & pruned.get(name, True)).sum()) for name, one in spared.items()) / total
        raise Infeasible(
            f"At most {most:.2%} of the weights can be zero when whole channels go, and {1 - chosen.kept / total:.2%} are asked for.",
            "One channel stays in each place, and those that cannot be taken out stay: inputs, outputs, what tracing does not follow.",
            f"Ask for at most {math.floor(most * 10000) / 10000:g} (--sparsity) or a larger budget; for more take another criterion.",
        )


def _require_one_ranking(recipe: SparsityFields, allocation: str) -> None:
    """Refuse what would take a channel from one layer and leave it in another.

    Raises:
        BadRequest: layers are given shares, or a pattern chooses weights inside them.
    """
    asked = f"--pattern {recipe.pattern}" if recipe.pattern != Pattern() else f"--allocation {recipe.allocation}"
    if allocation != "global" or recipe.pattern != Pattern():
        raise BadRequest(
            f"The criterion {recipe.criterion.name} takes what hangs together in several layers, and {asked} decides in each by itself.",
            "A channel would go from some of the layers that share it, and could not be taken out.",
            f"Leave {asked.split()[0]} out.",
        )


def below_pruned(sparsity: Fraction, pattern: Pattern, least: Fraction) -> BadRequest:
    """The refusal of a sparsity below what is pruned already."""
    within = f" with {pattern}" if pattern != Pattern() else ""
    return BadRequest(
        f"Sparsity {decimal(sparsity)} is below what is pruned already{within} ({float(least):.6g}).",
        "Weights that were pruned stay pruned.",
        f"Ask for at least {math.ceil(least * 10_000) / 10_000:g}.",
    )


def no_target(pattern: Pattern) -> BadRequest:
    """The refusal of a request without a sparsity."""
    return BadRequest("No sparsity was asked for.", f"The pattern {pattern} implies none.", "Add --sparsity 0.9 or --pattern 2:4.")


def pattern_notes(shapes: Mapping[str, tuple[int, ...]], pattern: Pattern) -> tuple[str, ...]:
    """A sentence about the layers that cannot carry the pattern and stay as they are; none when all can."""
    reasons = {name: why for name, shape in shapes.items() if (why := obstacle(shape, pattern))}
    if not reasons:
        return ()
    listed = "; ".join(f"{name} {why}" for name, why in list(reasons.items())[:3])
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return (f"{len(reasons)} of {len(shapes)} layers cannot carry {pattern} and stay as they are: {listed}{more}.",)


SPARES = "Try --allocation erk or --criterion lamp."
"""What gives thin layers more."""


def collapse_notes(masks: MaskSet, do: str = SPARES) -> tuple[str, ...]:
    """A warning about layers that keep no weight at all: nothing passes through them any more."""
    return emptied_notes([name for name in masks if not bool(masks[name].any())], do)


def emptied_notes(empty: Sequence[str], do: str = SPARES) -> tuple[str, ...]:
    """The warning about these layers, and what to do; none when there are none."""
    if not empty:
        return ()
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    what = f"{len(empty)} {'layer keeps' if len(empty) == 1 else 'layers keep'} no weight ({', '.join(empty[:3])}{more})"
    return (f"{what}: the network is cut there. {do}",)


def lean_notes(masks: MaskSet, block: int) -> tuple[str, ...]:
    """A warning about layers of which only one weight (or block) is left: the least that a solver leaves."""
    lean = [name for name, mask in masks.items() if int(mask.sum()) == block < mask.numel()]
    if not lean:
        return ()
    more = f" and {len(lean) - 3} more" if len(lean) > 3 else ""
    which = f"{len(lean)} {'layer keeps' if len(lean) == 1 else 'layers keep'} a single {'weight' if block == 1 else 'block'}"
    return (f"{which} ({', '.join(lean[:3])}{more}), so that none is empty. Less --sparsity, or --allocation uniform, leaves more there.",)


def require_carried(shapes: Mapping[str, tuple[int, ...]], pattern: Pattern) -> None:
    """For --strict: refuse layers that cannot carry the pattern.

    Args:
        shapes: [out, in, *kernel] of every prunable tensor.
        pattern: what they should hold.

    Raises:
        Infeasible: with the first of them.
    """
    reasons = [f"{name} {why}" for name, shape in shapes.items() if (why := obstacle(shape, pattern))]
    if reasons:
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise Infeasible(
            f"{len(reasons)} of {len(shapes)} layers cannot carry {pattern}: {'; '.join(reasons[:3])}{more}.",
            "--strict does not leave them dense.",
            "Exclude them with --skip, choose another pattern, or leave --strict out.",
        )


def _over(before: MaskSet | None, chosen: MaskSet) -> MaskSet:
    """The chosen masks, and those of layers that were left out this time but pruned before."""
    return MaskSet({**(before or {}), **chosen})


def require_held(masks: MaskSet, target: Fraction, pattern: Pattern) -> None:
    """Make sure that the masks hold the sparsity that was asked for, to one block, and the pattern in every group.

    Raises:
        Infeasible: they do not.
    """
    off = abs(masks.sparsity - target) * masks.total
    if off > pattern.block_size:
        raise Infeasible(
            f"The masks reach sparsity {float(masks.sparsity):.6g}, not {float(target):.6g}.", f"{float(off):.0f} weights are off."
        )
    if not holds(masks, pattern):
        raise Infeasible(f"The masks do not hold the pattern {pattern} in every group.", f"It means: {pattern.describe()}.")
