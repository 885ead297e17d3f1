"""Going through tensors slice by slice, on all cores, with the memory of a few slices."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.maths.magnitude_keys import storage_type
from sparsify_cli.maths.weight_view import WeightView
from sparsify_cli.values.layout import Place
from sparsify_cli.values.patch_file import strided
from sparsify_cli.values.raw_file import opened, read_at

Array = npt.NDArray[Any]
T = TypeVar("T")
WORKERS = min(4, os.cpu_count() or 1)
"""Threads that judge slices; what they find are integers, so their number changes nothing but the time."""

NEWS = 500
"""How often a listener hears of a pass, at most."""

AHEAD = 3
"""Slices in work or waiting, for each worker."""


@dataclass(frozen=True)
class Target:
    """A tensor that is read in slices.

    Args:
        name: canonical.
        place: where it lies.
        view: how it is taken apart.
        carries: it can hold the pattern; others stay dense.
    """

    name: str
    place: Place
    view: WeightView
    carries: bool = True

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return self.place.size


class Desk(threading.local):
    """Memory for one slice, for each worker: it is read into the same pages again and again, as new ones cost more than the reading."""

    def __init__(self) -> None:
        """Empty."""
        self._room = np.empty(0, dtype=np.uint8)

    def room(self, size: int) -> Array:
        """So many bytes at least; what lies there may be overwritten."""
        if self._room.size < size:
            self._room = np.empty(size, dtype=np.uint8)
        return self._room


def slice_of(descriptor: int, target: Target, start: int, count: int, desk: Desk) -> Array:
    """Numbers of a slice in row-major order, as unsigned integers; a tensor whose numbers are not in that order is one slice.

    Args:
        descriptor: of the file.
        target: the tensor.
        start, count: first element and number of elements.
        desk: where they are put; they are gone when the next slice is.
    """
    kind, place = storage_type(target.place.dtype), target.place
    if place.is_contiguous:
        return read_at(descriptor, place.offset + start * place.width, count, kind, desk.room(count * place.width))
    span = read_at(descriptor, place.offset, (place.end - place.offset) // place.width, kind)
    return strided(span, place).reshape(-1)


def slices_of(target: Target, joined: int = 1) -> list[tuple[int, int]]:
    """First element and number of elements of each slice, or of each run of so many slices."""
    slices = target.view.slices() if target.place.is_contiguous else [(0, target.weights)]
    runs = [slices[first : first + joined] for first in range(0, len(slices), joined)]
    return [(run[0][0], sum(count for _, count in run)) for run in runs]


def over_slices(
    root: Path, targets: Iterable[Target], job: Callable[[Target, Array], T], meter: Meter, *, joined: int = 1
) -> Iterator[tuple[Target, T]]:
    """The result of a job for every slice of every target, in order; slices are read and judged in parallel.

    Args:
        root: folder of the files.
        targets: what is read.
        job: what is done with a slice; it may overwrite it, and must not hold on to it.
        meter: hears how many bytes are done.
        joined: slices that are judged as one; for jobs that need little memory beside them, as fewer results have to be added up.
    """
    with ExitStack() as files:
        held: dict[str, int] = {}
        desk = Desk()

        def work(target: Target, start: int, count: int) -> tuple[Target, T]:
            found = job(target, slice_of(held[target.place.file], target, start, count, desk))
            meter.moved(count * target.place.width)
            return target, found

        def jobs() -> Iterator[Callable[[], tuple[Target, T]]]:
            for target in targets:
                if target.place.file not in held:
                    held[target.place.file] = files.enter_context(opened(root / target.place.file))
                yield from (partial(work, target, start, count) for start, count in slices_of(target, joined))

        yield from in_order(jobs())


def in_order(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """The results of jobs in their order, a few of them under way at any time."""
    with _pool() as pool:
        queue: deque[Future[T]] = deque()
        for job in jobs:
            queue.append(pool.submit(job))
            if len(queue) > AHEAD * WORKERS:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads; when something fails, what has not begun is not begun any more."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Meter:
    """Tells a listener how many bytes of how many are done."""

    def __init__(self, listener: Listener, label: str, total: int) -> None:
        """Nothing is done yet."""
        self._listener, self._label, self._total, self._done, self._told = listener, label, total, 0, 0
        self._lock = threading.Lock()

    def moved(self, count: int) -> None:
        """So many more bytes are done; any thread may tell."""
        with self._lock:
            self._done += count
            if self._done < min(self._told + self._total // NEWS, self._total):
                return
            self._told = self._done
            self._listener.progress(Progress(self._label, min(self._done, self._total), self._total, unit="B"))


def summed(found: Iterable[tuple[Target, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts of slices added up for each target."""
    totals: dict[str, dict[str, int]] = {}
    for target, counts in found:
        total = totals.setdefault(target.name, dict.fromkeys(counts, 0))
        for key, count in counts.items():
            total[key] += count
    return totals
