"""Threads that work ahead."""

from __future__ import annotations

import threading
import time

import pytest

from sparsify_cli.training.ahead import DEPTH, ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order(workers: int) -> None:
    """Whoever is done first, and however many threads there are."""

    def slow(step: int) -> int:
        time.sleep(0.01 * (step % 3 == 0))
        return step * step

    assert list(ahead(slow, range(4, 17), workers=workers)) == [step * step for step in range(4, 17)]
    assert list(ahead(slow, range(3, 3), workers=workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_comes_where_its_item_would(workers: int) -> None:
    """Items before it are handed out."""
    found = ahead(lambda step: 1 // (step - 3), range(6), workers=workers)
    assert [next(found) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_work_is_done_ahead_and_not_far() -> None:
    """While the first item is used the next ones are made, two a thread; a generator that is closed leaves no thread."""
    made, before = [], threading.active_count()
    found = ahead(lambda step: made.append(step) or step, range(100), workers=2)
    assert next(found) == 0
    for _ in range(200):
        if len(made) == 2 * DEPTH:
            break
        time.sleep(0.01)
    assert sorted(made) == list(range(2 * DEPTH))
    found.close()
    assert threading.active_count() == before
