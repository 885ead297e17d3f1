"""What a solver of networks chooses masks with, from the first of its stages to the last.

    density        falls by the same factor each time
    budget         what fits is found anew from the solver's own scores; before the last stage the total that they mean is on its way
    N:M            tightens as the density on the way allows: 3:4 from 75 % on, 2:4 at 50 %, so that every stage has something to choose

Source: staged pruning with recomputation, Singh and Alistarh 2020 (WoodFisher, arXiv 2004.14340); a density that falls by the same
factor each time: Kurtic et al. 2022 (oBERT, arXiv 2203.07259). Ours: N:M that tightens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from sparsify_cli.contracts.solver import Choose
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.values.mask_set import MaskSet


@dataclass(frozen=True)
class Way:
    """The way from a dense network to a target.

    Args:
        chooser: allocation, pattern, support and budget.
        target: sparsity at the end; with a budget it is found from the scores.
        pruned: what may stay; of a network that is pruned already less than all.
    """

    chooser: Sparsifier
    target: Fraction
    pruned: MaskSet

    @property
    def choose(self) -> Choose:
        """Scores and a share of the way -> masks, each within those before: what an earlier stage set to zero stays so."""
        within = self.pruned

        def chosen(scores: Mapping[str, Tensor], share: Fraction) -> MaskSet:
            nonlocal within
            now = replace(self, pruned=within)
            within = now._there(scores) if share >= 1 else now._on_the_way(scores, share)
            return within

        return chosen

    def _there(self, scores: Mapping[str, Tensor]) -> MaskSet:
        if self.chooser.fitting is None:
            return self.chooser.chosen(scores, max(self.target, self.chooser.least(scores, self.pruned)), self.pruned)
        counts, sparsity = self._fitted(scores)
        fitted = replace(self.chooser, allocation=lambda given, _: [counts[layer.name] for layer in given])
        return fitted.chosen(scores, sparsity, self.pruned)

    def _on_the_way(self, scores: Mapping[str, Tensor], share: Fraction) -> MaskSet:
        sparsity = on_the_way(self.target if self.chooser.fitting is None else self._fitted(scores)[1], share)
        freely = self.chooser if self.chooser.freely is None else replace(self.chooser, allocation=self.chooser.freely)
        now = freely
        for pattern in _tightest_first(self.chooser.pattern):
            now = replace(freely, pattern=pattern)
            if now.least(scores, self.pruned) <= sparsity:
                break
        least = now.least(scores, self.pruned)
        # a wider pattern takes no zeros beyond its own: the tighter one must still find room
        return now.chosen(scores, max(sparsity, least) if now.pattern == freely.pattern else least, self.pruned)

    def _fitted(self, scores: Mapping[str, Tensor]) -> tuple[dict[str, int], Fraction]:
        """Units that each layer keeps under the budget, and the sparsity that this is."""
        assert self.chooser.fitting is not None
        layers, dense = self.chooser.layers_by(scores, self.pruned)
        counts = {layer.name: count for layer, count in zip(layers, self.chooser.fitting(layers), strict=True)}
        kept = dense + sum(counts.values()) * self.chooser.pattern.block_size
        return counts, 1 - Fraction(kept, max(1, sum(score.numel() for score in scores.values())))


def _tightest_first(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern, those that keep more of each group, and none at all; of blocks and single weights only itself.

    Each finds its places within a wider one, along outputs, too: where as many of every row and column of M stay, there are fewer of
    them that do (Koenig 1916).
    """
    if not pattern.is_grouped:
        return iter((pattern,))
    return iter((*(replace(pattern, keep=keep) for keep in range(pattern.keep, pattern.group)), Pattern()))


def on_the_way(target: Fraction, share: Fraction) -> Fraction:
    """The sparsity at a share of the way, when the density falls exponentially; in thousandths of a percent, at most the target."""
    density = float(1 - target)
    return min(target, 1 - Fraction(round((density ** float(share) if density else 1 - float(share)) * 100_000), 100_000))
