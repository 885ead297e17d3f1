"""Work done ahead by threads: batches are cut out and augmented while the network trains on those before them.

What is made for a step depends on the step alone, and is handed out in the order of the steps: the number of threads changes nothing
but the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

DEPTH = 2
"""Items a thread, made or being made, that nobody has asked for yet."""


def ahead(make: Callable[[int], T], steps: range, *, workers: int) -> Generator[T, None, None]:
    """`make(step)` for each step in order; when it fails, it does so where its item would have come.

    Args:
        make: a pure function of the step.
        steps: which.
        workers: threads; 0 = made when it is asked for.
    """
    if not workers:
        yield from map(make, steps)
        return
    pool, waiting = ThreadPoolExecutor(workers, thread_name_prefix="batches"), deque[Future[T]]()
    try:
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) >= DEPTH * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
