"""Which samples are held out: a shuffle that is the same on every machine and with every library version.

Positions are ordered by the sha256 of `seed:position`, so no random generator, and no change of one, can move a sample
from one split to another.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor

SHARE = 0.1
"""Share of the training samples held out as validation where the data brings none."""


def shuffled(n: int, *, seed: int = 0) -> Int[Tensor, " n"]:
    """The positions 0..n-1 in a fixed random order.

    Args:
        n: how many samples.
        seed: another seed is another order.
    """
    keys = [hashlib.sha256(f"{seed}:{position}".encode()).digest() for position in range(n)]
    return torch.tensor(sorted(range(n), key=keys.__getitem__), dtype=torch.int64)


def hold_out(n: int, share: float = SHARE, *, seed: int = 0) -> tuple[Int[Tensor, " stay"], Int[Tensor, " held"]]:
    """Split n positions into those that stay and those held out, each in shuffled order.

    Args:
        n: how many samples.
        share: fraction to hold out, in [0, 1); at least one sample is held out and one stays, where n and share allow it.
        seed: another seed is another choice.
    """
    count = min(n - 1, max(1, round(n * share))) if share and n else 0
    order = shuffled(n, seed=seed)
    return order[count:], order[:count]
