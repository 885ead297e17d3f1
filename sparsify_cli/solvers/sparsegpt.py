"""SparseGPT: block after block of columns, prune what costs least and let the columns to the right make up for it.

With H the damped Gram matrix and R the upper triangular factor of its inverse, H^-1 = R^T R:

    mask      in a block of columns, keep the highest (w_j / R_jj)^2, after all columns to the left have been dealt with
    repair    column by column, err_j = (w_j - kept w_j) / R_jj ; W[:, j:] -= err_j R[j, j:]

(w_j / R_jj)^2 is the change of the layer's outputs when column j is zeroed and all columns to its right are refitted.

Counting. The layer keeps exactly `keep.count` weights. With budget=layer a block competes with every column that is not
decided yet: a bar is set such that as many undecided scores reach it as are still to be kept, and the block keeps those of
its own that do; what it keeps is counted, so that the next bar knows. With budget=block, as in the paper, each block keeps
the same share of the weights it has that are useful, by largest remainder. For N:M a block is one group of M columns, so
that each group is decided after everything to its left was repaired; groups hold at most N, and exactly N at the sparsity
the pattern implies. Useless weights (an input that is never active, or pruned before) go first.

Speed. Layers of up to `RANKED` weights set the bar anew for every block, from all undecided scores. Larger ones set it for
every 128 columns, from an even sample of `RANKED` of them; blocks inside are decided against the same bar. Weights are held
one input a row, so that a column is contiguous; repairs reach the columns of a leaf of 16 one by one, those of a span of 128
block by block, and all others once a span, in one matrix product in place.

Source: Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1 and section 3; official code IST-DASLab/sparsegpt. Differs: blocks
compete by default (on layers of small trained networks the changes of outputs are 1/4 to 3/4 of those with equal shares);
exact counts (theirs prune `<=` a threshold, one too many and all ties); N of N:M is kept, not removed; H = gram without the
factor 2, damped relative to the mean diagonal of live inputs; float64; blocks narrower than 128, because with one block for
the whole layer the mask never sees a repair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver
from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.gram import damped, inverse_factor
from sparsify_cli.maths.keep import apportion, kth_highest, top_k
from sparsify_cli.recipes.pattern import Pattern

SPAN = 128
"""Columns after which all columns further right are repaired; those of a block in the paper."""
LEAF = 16
"""Columns that are repaired column by column, and of the widest block by default."""
RANKED = 2**17
"""Weights that are ranked to set a bar."""
LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class SparseGPT(LayerSolver):
    """One pass over the columns with an inverse Hessian.

    Args:
        block: columns that are decided together; 0 = a sixty-fourth of the layer's, at least 1 and at most 16. N:M: always M.
        budget: `layer` = a block competes with all undecided columns; `block` = every block keeps an equal share.
        damping: added to the diagonal of the Gram matrix, relative to its mean.
        precision: of the repairs; auto = float32 in layers of more than `RANKED` weights, whose outputs it changes by less than a
            millionth, else float64. The factor of the inverse is found in float64 either way.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    block: Annotated[int, Field(ge=0)] = 0
    budget: Literal["layer", "block"] = "layer"
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    precision: Literal["auto", "float64", "float32"] = "auto"
    sequential: bool = True

    def solve(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep
    ) -> tuple[Float[Tensor, "out columns"], Bool[Tensor, "out columns"]]:
        """Prune and repair one layer."""
        width, dtype = self._width(weight.shape[1], keep.pattern), self._dtype(weight.numel())
        useful = _Useful.of(gram, keep.within, len(weight))
        budget = _Budget.of(useful, width, keep, equal=self.budget == "block")
        factor = inverse_factor(damped(gram.double(), self.damping)).to(dtype)
        layer = _Layer.of(weight.detach().to(dtype, copy=True), factor, useful, keep.pattern)
        widths = _widths(width, narrow=budget.competes and weight.numel() <= RANKED)
        for span in _parts(slice(0, weight.shape[1]), widths[0]):
            layer.decide(span, widths[1:], budget, layer.bar(span.start, budget.left) if budget.competes else None)
            layer.spread(span, slice(span.stop, None))
        return layer.work.masked_fill_(~layer.mask, 0).T.double().contiguous(), layer.mask.T.contiguous()

    def layer_memory(self, outputs: int, columns: int) -> int:
        """The damped Gram matrix and its factor on the way to their inverse, and the layer one input a row."""
        return 8 * (5 * columns**2 + 7 * outputs * columns)

    def _dtype(self, weights: int) -> torch.dtype:
        single = self.precision == "float32" or (self.precision == "auto" and weights > RANKED)
        return torch.float32 if single else torch.float64

    def _width(self, columns: int, pattern: Pattern) -> int:
        return pattern.group if pattern.is_grouped else self.block or min(LEAF, max(1, columns // 64))


def _widths(block: int, *, narrow: bool) -> list[int]:
    """Columns of a span, of the parts of a span, and of a block: each a multiple of the next; a span is a block when `narrow`."""
    leaf = block * max(1, LEAF // block)
    return [block] if narrow else list(dict.fromkeys([leaf * max(1, SPAN // leaf), leaf, block]))


def _parts(columns: slice, width: int) -> Iterator[slice]:
    for start in range(columns.start, columns.stop, width):
        yield slice(start, min(start + width, columns.stop))


@dataclass(frozen=True, eq=False)
class _Useful:
    """Which weights matter: live ones see an input that is active, pruned ones are zero already; one input a row."""

    live: Bool[Tensor, " columns"]
    pruned: Bool[Tensor, "columns out"] | None
    outputs: int
    all_live: bool

    @classmethod
    def of(cls, gram: Tensor, within: Tensor | None, outputs: int) -> _Useful:
        live = gram.diagonal() > 0
        return cls(live, None if within is None else ~within.T, outputs, bool(live.all()))

    def counts(self, pattern: Pattern) -> list[int]:
        """How many useful weights the pattern lets stay in each group of columns."""
        places = self.live[:, None] if self.pruned is None else self.live[:, None] & ~self.pruned
        groups = places.unflatten(0, (-1, pattern.group)).sum(1).clamp(max=pattern.keep).sum(1)
        return [int(count) for count in groups * (self.outputs // places.shape[1])]

    def ranked(self, scores: Float[Tensor, "..."], columns: Tensor | slice, outputs: Tensor | slice) -> Float[Tensor, "..."]:
        """Scores >= 0 at some places; at dead inputs below 0, in the same order; where pruned lowest of all."""
        if not self.all_live:
            live = self.live[columns]
            scores = torch.where(live if live.ndim == scores.ndim else live[:, None], scores, scores / (1 + scores) - 2)  # in [-2, -1]
        return scores if self.pruned is None else scores.masked_fill(self.pruned[columns, outputs], -3)


@dataclass(frozen=True)
class _Bar:
    """What a score has to reach, and how many of those that equal it pass."""

    score: float
    ties: Fraction


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer while it is being solved: one input a row, and the factor of the inverse Hessian."""

    work: Float[Tensor, "columns out"]
    mask: Bool[Tensor, "columns out"]
    errors: Float[Tensor, "columns out"]
    factor: Float[Tensor, "columns columns"]
    diagonal: Float[Tensor, " columns"]
    useful: _Useful
    pattern: Pattern

    @classmethod
    def of(cls, weight: Tensor, factor: Tensor, useful: _Useful, pattern: Pattern) -> _Layer:
        work = weight.T.contiguous()
        return cls(
            work, torch.zeros_like(work, dtype=torch.bool), torch.empty_like(work), factor, factor.diagonal().clone(), useful, pattern
        )

    def decide(self, columns: slice, widths: list[int], budget: _Budget, bar: _Bar | None) -> None:
        """Choose and repair some columns, block by block; those inside are repaired for each other part by part."""
        if not widths:
            self.mask[columns] = budget.choose(self.candidates(columns), bar)
            self.eliminate(columns)
        for part in _parts(columns, widths[0]) if widths else ():
            self.decide(part, widths[1:], budget, bar)
            self.spread(part, slice(part.stop, columns.stop))

    def eliminate(self, block: slice) -> None:
        """Take a block's pruned weights out, left to right; the block itself is repaired for it."""
        lost = ~self.mask[block] / self.diagonal[block, None]
        for leaf in _parts(block, LEAF):
            for j in range(leaf.start, leaf.stop):
                torch.mul(self.work[j], lost[j - block.start], out=self.errors[j])
                self.work[j + 1 : leaf.stop].addr_(self.factor[j, j + 1 : leaf.stop], self.errors[j], alpha=-1)
            self.spread(leaf, slice(leaf.stop, block.stop))

    def spread(self, here: slice, there: slice) -> None:
        """Repair other columns for the errors of some."""
        if there.stop is None or there.start < there.stop:
            self.work[there].addmm_(self.factor[here, there].T, self.errors[here], alpha=-1)

    def candidates(self, block: slice) -> Float[Tensor, "width out"]:
        """Scores of a block; -inf where the pattern lets nothing stay."""
        scores = (self.work[block] / self.diagonal[block, None]).square_()
        return _best(self.useful.ranked(scores, block, slice(None)).unflatten(0, (-1, self.pattern.group)), self.pattern.keep).flatten(0, 1)

    def bar(self, start: int, count: int) -> _Bar:
        """A bar that `count` of the candidates in the columns from `start` on reach; from an even sample of them when they are many."""
        groups = self.sample(start)
        total = (len(self.work) - start) // self.pattern.group * self.work.shape[1]
        scores = _best(groups.T[None], self.pattern.keep).flatten()
        wanted = min(round(Fraction(count * len(groups), total)), len(groups) * self.pattern.keep)
        if wanted == 0:
            return _Bar(math.inf, Fraction(0))
        score = float(kth_highest(scores, wanted))
        equal, above = int((scores == score).sum()), int((scores > score).sum())
        return _Bar(score, Fraction(wanted - above, equal))

    def sample(self, start: int) -> Float[Tensor, "sample group"]:
        """Scores of groups of columns from `start` on: all, or some at equal steps, which meet all outputs and columns alike."""
        outputs, size = self.work.shape[1], self.pattern.group
        total = (len(self.work) - start) // size * outputs
        step = -(-total * size // RANKED)
        while math.gcd(step, outputs) > 1:
            step += 1
        places = torch.arange(0, total, step, device=self.work.device)
        columns = start + places.div(outputs, rounding_mode="floor")[:, None] * size + torch.arange(size, device=places.device)
        at = (places % outputs)[:, None].expand_as(columns)
        return self.useful.ranked((self.work[columns, at] / self.diagonal[columns]).square_(), columns, at)


def _best(groups: Float[Tensor, "groups size out"], keep: int) -> Float[Tensor, "groups size out"]:
    """The scores, with -inf where `keep` others of the group are higher, or equal and earlier."""
    size = groups.shape[1]
    if keep == size:
        return groups
    ahead = torch.arange(size - 1, -1, -1, dtype=torch.uint8, device=groups.device)[:, None].repeat(len(groups), 1, groups.shape[2])
    for step in range(1, size):
        beats = (groups[:, :-step] >= groups[:, step:]).view(torch.uint8)
        ahead[:, step:] += beats
        ahead[:, :-step] -= beats
    return groups.masked_fill(ahead >= keep, -torch.inf)


@dataclass(eq=False)
class _Budget:
    """How many weights are still to be kept, and what the undecided blocks have room for, the last block first.

    Args:
        left: weights that they keep together.
        useful: how many useful ones each has, as far as the pattern lets them stay.
        room: how many weights the pattern lets stay in each.
        shares: what each keeps, when that is settled beforehand.
    """

    left: int
    useful: list[int]
    room: list[int]
    shares: list[int] | None

    @classmethod
    def of(cls, useful: _Useful, width: int, keep: Keep, *, equal: bool) -> _Budget:
        """Nothing is decided yet.

        Raises:
            Infeasible: the pattern has no room for the count.
        """
        groups, size = useful.counts(keep.pattern), width // keep.pattern.group
        blocks = [groups[start : start + size] for start in range(0, len(groups), size)]
        good, room = [sum(block) for block in blocks], [len(block) * keep.pattern.keep * useful.outputs for block in blocks]
        if keep.count > sum(room):
            raise Infeasible(f"{keep.count} weights of a layer should stay, and {keep.pattern} lets {sum(room)} stay.")
        settled = equal or keep.count == sum(room)
        shares = _shares(keep.count, good, room)[::-1] if settled else None
        return cls(keep.count, good[::-1], room[::-1], shares)

    @property
    def competes(self) -> bool:
        """Whether blocks compete for what is left."""
        return self.shares is None

    def choose(self, scores: Float[Tensor, "width out"], bar: _Bar | None) -> Bool[Tensor, "width out"]:
        """Which weights of the next block stay: those that reach the bar, as far as the count and the useful weights allow."""
        fewest, most = self._bounds()
        score, ties = (bar.score, bar.ties) if bar else (-math.inf, Fraction(0))
        reaching = scores >= max(score, LOWEST)
        count = int(reaching.sum())
        if not fewest <= count <= most or (bar and ties < 1):
            above = int((scores > score).sum())
            count = min(max(above + round((count - above) * ties), fewest), most)
            reaching = top_k(scores.T.flatten(), count).view_as(scores.T).T
        self.left -= count
        return reaching

    def _bounds(self) -> tuple[int, int]:
        """The fewest and the most weights that the next block may keep; later ones need not keep useless weights for it."""
        useful, room = self.useful.pop(), self.room.pop()
        if self.shares is not None:
            share = self.shares.pop()
            return share, share
        later = sum(self.useful)
        if self.left <= useful + later:
            return max(0, self.left - later), min(useful, self.left)
        return max(useful, self.left - sum(self.room)), min(room, self.left)


def _shares(count: int, useful: list[int], room: list[int]) -> list[int]:
    """Equal shares of the count for every block of columns; useless weights count only where the useful are too few."""
    if count > sum(useful):
        return apportion([Fraction(most) for most in room], count, room, floors=useful)
    return apportion([Fraction(most) for most in useful], count, useful)
