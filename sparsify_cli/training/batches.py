"""Batches in an order that depends on the seed and the step alone, so that a resumed run sees what it would have seen.

Each epoch is one permutation, drawn from a generator seeded by (seed, epoch). `size` counts the samples of one optimizer
step over *all* processes; process r of w takes every w-th sample of that batch, from the r-th on. Batches hold the
same samples whatever the number of processes.

The incomplete batch at the end of an epoch is kept when every process gets at least 2 samples of it (batch norm is not
defined on one); some may get one more than others, and losses are weighted for that. Otherwise it is left out of that
epoch. The permutation changes every epoch, so no sample is left out for good.

So another number of processes trains the same network, up to rounding, without random numbers inside the network or in
augmentation, and unless the last batch has fewer than 2 samples for each process. Batch norm is over all of them (`joint_norms`).
"""

from __future__ import annotations

import functools
import hashlib
import threading

import torch
from jaxtyping import Int
from torch import Tensor

from sparsify_cli.errors import BadData, BadRequest
from sparsify_cli.values.arrays import as_taken_by, handy_batch
from sparsify_cli.values.samples import Samples

__all__ = ["as_taken_by", "batch_of", "derived_seed", "epoch_order", "handy_batch", "samples_of_step", "steps_per_epoch"]


def derived_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every part and on their order; neighbouring parts give unrelated seeds."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def steps_per_epoch(n: int, *, size: int, world: int = 1) -> int:
    """Optimizer steps in one epoch.

    Args:
        n: samples of the training split.
        size: samples of one step, over all processes.
        world: processes.

    Raises:
        BadRequest: `size` is not a positive multiple of `world`.
        BadData: there are too few samples for a single step.
    """
    if size < 1 or size % world:
        raise BadRequest(f"A batch of {size} samples cannot be shared by {world} processes.", "", f"Choose a multiple of {world}.")
    steps = n // size + (_tail(n, size, world) > 0)
    if steps == 0:
        raise BadData(f"The training data has {n} samples.", f"{world} processes need at least 2 each for one step.")
    return steps


def samples_of_step(n: int, *, size: int, world: int, step: int) -> int:
    """Samples of one optimizer step over all processes: `size`, or what the incomplete last batch of an epoch has."""
    per_epoch = steps_per_epoch(n, size=size, world=world)
    return _tail(n, size, world) if step % per_epoch == n // size else size


def epoch_order(n: int, *, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """The permutation of the samples in `epoch` (0 = the first)."""
    with ONE_AT_A_TIME:
        return _epoch_order(n, seed, epoch)


ONE_AT_A_TIME = threading.Lock()
"""Threads that work ahead ask for the same order at the same time."""


@functools.lru_cache(maxsize=2)  # two: who works ahead is in the next epoch already
def _epoch_order(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(n, generator=generator)


def batch_of(samples: Samples, step: int, *, size: int, seed: int, rank: int = 0, world: int = 1) -> Samples:
    """The batch of one step, for one process.

    Args:
        samples: the training split.
        step: optimizer steps before it.
        size: samples of one step, over all processes.
        seed: of the order.
        rank: which process, 0 .. world - 1.
        world: processes.

    Raises:
        BadRequest, BadData: as `steps_per_epoch`.
    """
    epoch, place = divmod(step, steps_per_epoch(len(samples), size=size, world=world))
    batch = epoch_order(len(samples), seed=seed, epoch=epoch)[place * size : (place + 1) * size]
    return samples.take(batch[rank::world])


def _tail(n: int, size: int, world: int) -> int:
    """Samples of the incomplete last batch, over all processes; 0 when it is left out."""
    return n % size if n % size // world >= 2 else 0
