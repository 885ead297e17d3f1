"""Masks that are N:M along both axes: every MxM block keeps N of each row and N of each column, so W and W^T both are N:M.

Up to M = 4 the best of all such masks of a block is found by trying them: 90 for 2:4, 24 for 1:4 and 3:4. Above, a mask is
improved until no improvement exists, by cancelling cycles: let row i take column j, which row k gives up in return,

    D[i, k] = max over j kept by k and not by i of (s_ij - s_kj)

A closed walk of rows over D whose sum is positive improves the mask and leaves all counts as they are, and a mask without one
is the best there is (the problem is a minimum-cost flow, whose optimal flows have no negative cycle). Walks are searched from
short to long, so that the first improving one visits no row twice; all blocks are worked on at once.

Source: Hubara et al. 2021, arXiv 2102.08124 (transposable masks, minimum-cost flow, and a 2-approximation); NVIDIA/apex m4n2_2d_best
for the 90 masks; cycle cancelling: Klein 1967. Differs: exact for every N:M, not only 2:4. Exactly N, not at most N, of each row and
column are kept; where scores are very uneven a mask that keeps fewer could retain more, which is not what N:M is asked for.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.errors import BadRequest, NonFinite
from sparsify_cli.maths.matrix_view import from_blocks, to_blocks

ENUMERATED = 4
"""Largest M for which all masks of a block are tried."""
LEAST = 1e-12
"""Gains below this share of a block's scores are taken for rounding."""
CHUNK = 2**14
"""Blocks worked on at once."""


def transposable(scores: Float[Tensor, "out columns"], keep: int, group: int) -> Bool[Tensor, "out columns"]:
    """The mask of the highest sum of scores that keeps `keep` of each row and of each column of every group x group block.

    Args:
        scores: higher = keep; +inf is kept wherever the counts allow.
        keep, group: N and M.

    Returns:
        True = kept.

    Raises:
        BadRequest: rows or columns are no whole number of groups, or not 0 < N < M.
        NonFinite: a score is NaN.
    """
    _check(scores, keep, group)
    blocks = _finite(to_blocks(scores.detach().double(), group, group))
    best = _by_trying if group <= ENUMERATED else _by_cycles
    masks = [best(part, keep, group) for part in blocks.split(CHUNK)]
    return from_blocks(torch.cat(masks), (scores.shape[0], scores.shape[1]), group, group)


def _check(scores: Tensor, keep: int, group: int) -> None:
    rows, columns = scores.shape
    if not 0 < keep < group:
        raise BadRequest(f"The pattern {keep}:{group} keeps {keep} of every {group} weights.", "N must be at least 1 and smaller than M.")
    if not scores.numel() or rows % group or columns % group:
        raise BadRequest(
            f"A matrix of {rows} x {columns} has no transposable {keep}:{group} mask.",
            f"Its rows and columns must be multiples of {group}.",
            "Exclude the layer with --skip, or choose another pattern.",
        )
    if bool(scores.isnan().any()):
        raise NonFinite(f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN.", "They cannot be ranked.")


def _finite(blocks: Float[Tensor, "blocks size"]) -> Float[Tensor, "blocks size"]:
    """Scores of each block over its largest finite one, with infinities that outweigh all others together."""
    infinite = blocks.isinf()
    largest = blocks.abs().masked_fill(infinite, 0).amax(1, keepdim=True)
    scaled = blocks / largest.where(largest > 0, torch.ones_like(largest))
    return scaled.where(~infinite, 2.0 * blocks.shape[1] * blocks.sign())


@cache
def all_masks(keep: int, group: int) -> Bool[Tensor, "masks size"]:
    """Every group x group mask with `keep` of each row and of each column, flat."""
    rows = [[column in kept for column in range(group)] for kept in combinations(range(group), keep)]
    masks = [mask for mask in product(rows, repeat=group) if all(sum(column) == keep for column in zip(*mask, strict=True))]
    return torch.tensor(masks).flatten(1)


def _by_trying(blocks: Float[Tensor, "blocks size"], keep: int, group: int) -> Bool[Tensor, "blocks size"]:
    masks = all_masks(keep, group).to(blocks.device)
    return masks[(blocks @ masks.T.to(blocks.dtype)).argmax(1)]


def _by_cycles(blocks: Float[Tensor, "blocks size"], keep: int, group: int) -> Bool[Tensor, "blocks size"]:
    scores = blocks.unflatten(1, (group, group))
    masks = _start(scores, keep)
    open_blocks = torch.arange(len(blocks), device=blocks.device)
    while len(open_blocks):
        part = masks[open_blocks]
        improved = _improved(scores[open_blocks], part)
        masks[open_blocks] = part
        open_blocks = open_blocks[improved]
    return masks.flatten(1)


def _start(scores: Float[Tensor, "blocks m m"], keep: int) -> Bool[Tensor, "blocks m m"]:
    """Of each block, the `keep` best of its diagonals that wrap around."""
    size = scores.shape[1]
    at = torch.arange(size, device=scores.device)
    diagonal = (at - at[:, None]) % size
    sums = torch.stack([scores.masked_fill(diagonal != d, 0).sum((1, 2)) for d in range(size)], 1)
    best = torch.zeros_like(sums, dtype=torch.bool).scatter_(1, sums.topk(keep, dim=1).indices, True)
    return best[:, diagonal]


def _improved(scores: Float[Tensor, "blocks m m"], masks: Bool[Tensor, "blocks m m"]) -> Bool[Tensor, " blocks"]:
    """Improve each mask, in place, along its shortest improving cycle; which were improved."""
    size = scores.shape[1]
    gains, column = _exchanges(scores, masks)
    done = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    walk, before = gains, []
    for _ in range(size - 1):
        walk, by = _longer(walk, gains)
        before.append(by)
        value, start = walk.diagonal(dim1=1, dim2=2).max(1)
        now = ((value > LEAST * size) & ~done).nonzero().flatten()
        _turn(masks, column, before, now, start[now])
        done[now] = True
        if bool(done.all()):
            break
    return done


def _exchanges(scores: Float[Tensor, "blocks m m"], masks: Bool[Tensor, "blocks m m"]) -> tuple[Tensor, Tensor]:
    """D[i, k] of the module's text, and the column that row i takes from row k."""
    taken = scores.masked_fill(masks, -torch.inf)
    given = scores.masked_fill(~masks, torch.inf)
    best = (taken[:, :, None, :] - given[:, None, :, :]).max(3)
    return best.values, best.indices


def _longer(walk: Float[Tensor, "blocks m m"], gains: Float[Tensor, "blocks m m"]) -> tuple[Tensor, Tensor]:
    """The best walks that are one row longer, and the last row but one of each."""
    best = (walk[:, :, :, None] + gains[:, None, :, :]).max(2)
    return best.values, best.indices


def _turn(masks: Tensor, column: Tensor, before: list[Tensor], blocks: Int[Tensor, " n"], start: Int[Tensor, " n"]) -> None:
    """Exchange along the closed walks from `start`, backwards."""
    last = start
    for by in [*reversed(before), None]:
        previous = start if by is None else by[blocks, start, last]
        at = column[blocks, previous, last]
        masks[blocks, previous, at] = True
        masks[blocks, last, at] = False
        last = previous
