"""Writing a pruned copy of a file: everything byte for byte, but zeros where weights go, and the masks beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify_cli.maths.radix_select import Cut
from sparsify_cli.stages.cutting import Cuts
from sparsify_cli.stages.slices import Desk, Meter, Target, in_order, slice_of, slices_of
from sparsify_cli.values.layout import Layout
from sparsify_cli.values.mask_writer import MaskWriter
from sparsify_cli.values.patch_file import put, renew
from sparsify_cli.values.raw_file import CHUNK, begin_write_back, copy_range, opened, write_at

Array = npt.NDArray[Any]
GAP = 8 * CHUNK
"""Bytes between weights that are copied at a time."""

TOGETHER = 8
"""Slices that one worker prunes in a row: handing over each by itself takes longer than it is worth."""

BEHIND = 16 * CHUNK
"""Bytes after which the disk is asked to begin."""


Step = Callable[[], dict[str, int]]


@dataclass(frozen=True)
class Copy:
    """One file that is being written.

    Args:
        source, output, bits: descriptors of the original, of the copy and of the masks file.
        cuts: what stays.
        masks: where bits go.
        meter: hears how many bytes are done.
        desk: where slices are read to.
    """

    source: int
    output: int
    bits: int
    cuts: Cuts
    masks: MaskWriter
    meter: Meter
    desk: Desk

    def written(self, start: int, end: int) -> dict[str, int]:
        """What lies before a byte is written, but for slices that are under way; the disk may begin with it."""
        begin_write_back(self.output, start, end)
        return {}

    def gap(self, start: int, end: int) -> dict[str, int]:
        """Copy what lies between weights."""
        copy_range(self.source, self.output, start, end)
        self.meter.moved(end - start)
        return {}

    def run(self, target: Target, slices: Sequence[tuple[int, int]]) -> dict[str, int]:
        """Prune slice after slice: a few of a tensor, or all of them where the order of ties counts."""
        seen = zeros = 0
        for start, count in slices:
            gone, equal = self._slice(target, start, count, seen)
            seen, zeros = seen + equal, zeros + gone
        return {target.name: zeros}

    def scattered(self, target: Target) -> dict[str, int]:
        """Prune a tensor whose numbers lie apart, or among those of another one, in the copy itself."""
        raw = np.ascontiguousarray(slice_of(self.output, target, 0, target.weights, self.desk))
        keep, _ = self._keep(target, raw, 0, 0)
        put(self.output, target.place, np.multiply(raw, keep, out=raw))
        self.masks.put(self.bits, target.name, 0, keep)
        return {target.name: self._zeros(target, raw, keep)}

    def _slice(self, target: Target, start: int, count: int, seen: int) -> tuple[int, int]:
        """Zeros of a slice from now on, and units in it that equal the threshold."""
        raw = slice_of(self.source, target, start, count, self.desk)
        keep, equal = self._keep(target, raw, start, seen)
        np.multiply(raw, keep, out=raw)
        write_at(self.output, target.place.offset + start * target.place.width, raw)
        self.masks.put(self.bits, target.name, start, keep)
        self.meter.moved(raw.nbytes)
        return self._zeros(target, raw, keep), equal

    def _keep(self, target: Target, raw: Array, start: int, seen: int) -> tuple[Array, int]:
        """Which elements stay, in memory order, and how many units equal the threshold."""
        if target.name in self.cuts.given:
            return self.cuts.given[target.name].reshape(-1)[start : start + raw.size].numpy(), 0
        if not target.carries:  # it stays dense, or as sparse as it was: the pattern does not take it apart
            return (raw << raw.dtype.type(1)) != 0 if target.name in self.cuts.zeros_go else np.ones(raw.size, dtype=np.bool_), 0
        keys, present = self.cuts.units(target, raw)
        stay, equal = _stay(keys, present, self.cuts.cuts.get(target.name), seen)
        return target.view.in_memory_order(stay, raw.size), equal

    def _zeros(self, target: Target, raw: Array, keep: Array) -> int:
        """How many numbers of a pruned slice are zero, whatever their sign; above a threshold there are none. `raw` is overwritten."""
        cut = self.cuts.cuts.get(target.name)
        above = cut is not None and cut.keeps_no_zero and target.view.pattern.block_size == 1
        return int(raw.size - np.count_nonzero(keep if above else np.left_shift(raw, raw.dtype.type(1), out=raw)))


def _stay(keys: Array, present: Array | None, cut: Cut | None, seen: int) -> tuple[Array, int]:
    if cut is None:
        return (np.ones(keys.size, dtype=np.bool_) if present is None else present), 0
    if not cut.splits_ties:
        stay = cut.keep(keys)
        return (stay if present is None else stay & present), 0
    able = keys if present is None else keys[present]
    chosen, equal = cut.keep_some(able, seen)
    if present is None:
        return chosen, equal
    stay = np.zeros(keys.size, dtype=np.bool_)
    stay[present] = chosen
    return stay, equal


def write_copy(
    layout: Layout, name: str, output: Path, targets: Sequence[Target], cuts: Cuts, masks: MaskWriter, meter: Meter
) -> dict[str, int]:
    """Write the pruned copy of one file of a layout, and the bits of its masks.

    Args:
        layout: of the original.
        name: the file.
        output: where the copy goes; an empty file.
        targets: prunable tensors that lie in it.
        cuts: what stays of them.
        masks: has begun.
        meter: hears how many bytes are done.

    Returns:
        name -> zeros of each target from now on.
    """
    plain, odd = _apart(targets)
    size = (layout.root / name).stat().st_size
    zeros = {target.name: 0 for target in targets}
    with opened(layout.root / name) as source, opened(output, write=True) as target_file, opened(masks.path, write=True) as bits:
        copy = Copy(source, target_file, bits, cuts, masks, meter, Desk())
        for found in in_order(_jobs(copy, plain, size)):
            _add(zeros, found)
        for target in odd:
            _add(zeros, copy.scattered(target))
        renew(source, target_file, [check for check in layout.checks if check.file == name], (target.place for target in targets))
    return zeros


def _add(zeros: dict[str, int], found: Mapping[str, int]) -> None:
    for name, count in found.items():
        zeros[name] += count


def _apart(targets: Sequence[Target]) -> tuple[list[Target], list[Target]]:
    """Targets that have a run of bytes to themselves, in the order of the file; and the others."""
    plain: list[Target] = []
    odd: list[Target] = []
    for target in sorted(targets, key=lambda t: (t.place.offset, t.name)):
        alone = target.place.is_contiguous and (not plain or target.place.offset >= plain[-1].place.end)
        (plain if alone else odd).append(target)
    return plain, odd


def _jobs(copy: Copy, targets: Sequence[Target], size: int) -> Iterator[Step]:
    """What there is to do for a file, in the order of its bytes; in between, what was written is sent on its way to the disk."""
    begun = 0
    for start, step in _steps(copy, targets, size):
        if start - begun >= BEHIND:
            yield partial(copy.written, begun, start)
            begun = start
        yield step


def _steps(copy: Copy, targets: Sequence[Target], size: int) -> Iterator[tuple[int, Step]]:
    """The first byte of each piece of a file, and what is done with it."""
    done = 0
    for target in targets:
        yield from _gaps(copy, done, target.place.offset)
        cut = copy.cuts.cuts.get(target.name)
        slices = slices_of(target)
        together = max(1, len(slices)) if cut is not None and cut.splits_ties else TOGETHER
        for first in range(0, len(slices), together):
            run = slices[first : first + together]
            yield target.place.offset + run[0][0] * target.place.width, partial(copy.run, target, run)
        done = target.place.end
    yield from _gaps(copy, done, size)


def _gaps(copy: Copy, start: int, end: int) -> Iterator[tuple[int, Step]]:
    for first in range(start, end, GAP):
        yield first, partial(copy.gap, first, min(first + GAP, end))
