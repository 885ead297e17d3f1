"""Phases of alternating training, against the schedules that the official configurations write out."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sparsify_cli.maths.alternation import alternation

SCHEDULES = {
    "ImageNet, 100 epochs": (100, 10, 5, 5, 10, 15, [*range(10, 71, 10), 85], [0, *range(15, 66, 10), 75]),
    "ImageNet, 150 epochs": (150, 10, 5, 5, 10, 15, [*range(10, 121, 10), 135], [0, *range(15, 116, 10), 125]),
    "freq20": (200, 10, 20, 20, 20, 30, [10, 50, 90, 130, 170], [0, 30, 70, 110, 150]),
    "dense13": (225, 10, 20, 13, 13, 50, [10, 43, 76, 109, 142, 175], [0, 30, 63, 96, 129, 162]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_the_paper(name: str) -> None:
    """Epochs at which sparse and dense phases begin are those of the configurations, and phases leave no gap."""
    total, warmup, sparse, dense, last_dense, last_sparse, sparse_begins, dense_begins = SCHEDULES[name]
    phases = alternation(total, warmup=warmup, sparse=sparse, dense=dense, last_dense=last_dense, last_sparse=last_sparse)
    assert [p.begin for p in phases if p.is_sparse] == sparse_begins
    assert [p.begin for p in phases if not p.is_sparse] == dense_begins
    assert [p.end for p in phases] == [*(p.begin for p in phases[1:]), total]


def test_half_of_the_epochs_are_sparse() -> None:
    """Of 100 epochs 50 are sparse: seven phases of 5 and the last of 15."""
    phases = alternation(100, warmup=10, sparse=5, dense=5, last_dense=10, last_sparse=15)
    assert sum(p.length for p in phases if p.is_sparse) == 50


def test_a_dense_turn_before_the_last_dense_phase_is_one_with_it() -> None:
    """Where turns end dense, no two dense phases follow each other, and the network is compressed once fewer."""
    phases = alternation(100, warmup=10, sparse=5, dense=5, last_dense=15, last_sparse=15)
    assert [(p.begin, p.end) for p in phases[-3:]] == [(60, 65), (65, 85), (85, 100)]
    assert all(a.is_sparse != b.is_sparse for a, b in pairwise(phases))


def test_without_room_for_turns() -> None:
    """A warm-up that lasts until the last dense phase is one dense phase with it."""
    phases = alternation(10, warmup=4, sparse=2, dense=2, last_dense=3, last_sparse=3)
    assert [(p.begin, p.end, p.is_sparse) for p in phases] == [(0, 7, False), (7, 10, True)]


@pytest.mark.parametrize("total", [0, 9])
def test_too_short_a_run(total: int) -> None:
    """A run without room for the warm-up and the last two phases is refused."""
    with pytest.raises(ValueError, match="too few"):
        alternation(total, warmup=4, sparse=2, dense=2, last_dense=3, last_sparse=3)
