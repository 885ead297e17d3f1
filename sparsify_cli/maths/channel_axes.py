"""The channels of one tensor: an axis that holds those of one layer, or of several one after the other.

Concatenation puts runs side by side, slices and splits take some away. Where a sum or a weight joins two axes whose runs end at
different places, spaces are split there until both have the same boundaries; then run by run they are one. Where a channel of one
run takes as many entries as several of the other, these several become one channel: they can only move together.

Source: none; partition refinement after Paige and Tarjan 1987.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from sparsify_cli.maths.channel_spaces import Space


@dataclass(frozen=True)
class Run:
    """Channels of one space, each `repeat` times in a row."""

    space: Space
    repeat: int = 1

    @property
    def width(self) -> int:
        """Entries it takes."""
        return self.space.channels * self.repeat


@dataclass(frozen=True)
class Axis:
    """Axis `dim` of a tensor, and the runs of channels along it."""

    dim: int
    parts: tuple[Run, ...]

    @classmethod
    def of(cls, space: Space, dim: int) -> Axis:
        """An axis of one run."""
        return cls(dim, (Run(space),))

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs as they are by now."""
        return tuple(Run(leaf, part.repeat * times) for part in self.parts for leaf, times in part.space.grains())

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where each run ends."""
        return tuple(accumulate(run.width for run in self.runs))

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each run begins."""
        return (0, *self.bounds[:-1])

    @property
    def width(self) -> int:
        """Entries of the axis."""
        return sum(part.width for part in self.parts)

    def at(self, dim: int) -> Axis:
        """The same channels along another axis."""
        return replace(self, dim=dim)

    def widened(self, dim: int, times: int) -> Axis:
        """Each channel `times` as often, along another axis."""
        return Axis(dim, tuple(Run(part.space, part.repeat * times) for part in self.parts))

    def block(self, reason: str) -> None:
        """Forbid any other order of any of its channels."""
        for part in self.parts:
            part.space.block(reason)

    def mix(self, reason: str) -> None:
        """Say that something looks at all of them at once, in any order."""
        for part in self.parts:
            part.space.mix(reason)

    def cut(self, bounds: Iterable[int]) -> bool:
        """Split spaces so that runs end at all of these entries; False where one lies within a channel's own."""
        for bound in bounds:
            for run, start in zip(self.runs, self.starts, strict=True):
                inside = bound - start
                if 0 < inside < run.width:
                    if inside % run.repeat:
                        return False
                    run.space.split(inside // run.repeat)
                    break
        return True

    def pieces(self, sizes: Sequence[int]) -> list[Axis] | None:
        """The axis taken apart into pieces of these sizes; None where a boundary lies within a channel's own entries."""
        ends = list(accumulate(sizes))
        while not set(ends) <= {0, *self.bounds}:
            if not self.cut(ends):
                return None
        starts = [end - size for end, size in zip(ends, sizes, strict=True)]
        runs = list(zip(self.runs, self.starts, strict=True))
        return [Axis(self.dim, tuple(run for run, at in runs if start <= at < end)) for start, end in zip(starts, ends, strict=True)]

    def merge(self, other: Axis, where: str) -> None:
        """Make both one; `where` says which operation asks for it."""
        if self.width != other.width:
            return self._neither(other, f"{where} joins {self.width} channels with {other.width}")
        while self.bounds != other.bounds:
            if not (self.cut(other.bounds) and other.cut(self.bounds)):
                return self._neither(other, f"{where} combines channels in two shapes")
        while uneven := self._uneven(other):
            fine, coarse = sorted(uneven, key=lambda run: run.repeat)
            if coarse.repeat % fine.repeat:
                return self._neither(other, f"{where} combines channels in two shapes")
            fine.space.join(coarse.repeat // fine.repeat)
        for ours, theirs in zip(self.runs, other.runs, strict=True):
            ours.space.merge(theirs.space)
        return None

    def _uneven(self, other: Axis) -> tuple[Run, Run] | None:
        """The first two runs at one place whose channels take different numbers of entries."""
        pairs = zip(self.runs, other.runs, strict=True)
        return next(((ours, theirs) for ours, theirs in pairs if ours.repeat != theirs.repeat), None)

    def _neither(self, other: Axis, reason: str) -> None:
        self.block(reason)
        other.block(reason)
