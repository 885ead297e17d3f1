"""When phases of an alternating training begin: dense warm-up, then sparse and dense by turns, a last dense and a last sparse one.

    0 .. warmup                       dense
    warmup .. (sparse, dense) ...     by turns, sparse first
    total - last_sparse - last_dense  dense
    total - last_sparse .. total      sparse

A turn that the last dense phase cuts short is as long as is left; a dense turn in front of it becomes one with it.

Source: Peste et al. 2021 (AC/DC, arXiv 2106.12379), the schedules of the official `configs/neurips`, expanded in steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Steps [begin, end) of one kind."""

    begin: int
    end: int
    is_sparse: bool

    @property
    def length(self) -> int:
        """Steps."""
        return self.end - self.begin


def alternation(total: int, *, warmup: int, sparse: int, dense: int, last_dense: int, last_sparse: int) -> tuple[Phase, ...]:
    """The phases of a run, in order, without gaps.

    Args:
        total: steps of the run.
        warmup: of them dense at the start, >= 0.
        sparse: of each sparse phase but the last, >= 1.
        dense: of each dense phase but the last, >= 1.
        last_dense: >= 1.
        last_sparse: >= 1.

    Raises:
        ValueError: the run is too short for a warm-up and the last two phases.
    """
    middle_end = total - last_dense - last_sparse
    if middle_end < warmup or min(sparse, dense, last_dense, last_sparse) < 1:
        raise ValueError("too few steps for the phases")
    turns = [*_turns(warmup, middle_end, (sparse, dense))]
    begin = turns.pop().begin if turns and not turns[-1].is_sparse else middle_end  # two dense phases in a row are one
    if not turns and warmup:
        begin = 0
    start = [Phase(0, warmup, False)] if warmup and begin else []
    return (*start, *turns, Phase(begin, total - last_sparse, False), Phase(total - last_sparse, total, True))


def _turns(begin: int, end: int, lengths: tuple[int, int]) -> Iterator[Phase]:
    turn = 0
    while begin < end:
        stop = min(end, begin + lengths[turn % 2])
        yield Phase(begin, stop, turn % 2 == 0)
        begin, turn = stop, turn + 1
