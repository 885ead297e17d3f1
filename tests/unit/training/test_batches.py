"""Order of samples: depends on the seed and the step, shared between processes, nothing lost."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import BadData, BadRequest
from sparsify_cli.training.batches import batch_of, derived_seed, samples_of_step, steps_per_epoch
from sparsify_cli.values.samples import Samples


def numbered(n: int) -> Samples:
    """So many samples whose input, label and id are their number."""
    numbers = torch.arange(n)
    return Samples(numbers[:, None].float(), numbers, tuple(str(i) for i in range(n)))


def ids(n: int, *, size: int, total: int, seed: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> list[tuple[str, ...]]:
    """The ids of each batch."""
    samples = numbered(n)
    return [batch_of(samples, step, size=size, seed=seed, rank=rank, world=world).ids for step in range(start, total)]


@pytest.mark.parametrize(
    ("n", "size", "world", "steps"),
    [(12, 4, 1, 3), (13, 4, 1, 3), (14, 4, 1, 4), (3, 8, 1, 1), (13, 4, 2, 3), (15, 4, 2, 3), (11, 8, 2, 1), (12, 8, 2, 2), (5, 1, 1, 5)],
)
def test_steps_per_epoch_by_hand(n: int, size: int, world: int, steps: int) -> None:
    """The incomplete batch counts only when every process gets two samples of it."""
    assert steps_per_epoch(n, size=size, world=world) == steps
    assert len(ids(n, size=size, total=steps, world=world)) == steps


def test_an_epoch_is_a_permutation() -> None:
    """Every sample once an epoch, in another order the next epoch and under another seed."""
    epochs = ids(10, size=4, total=6)
    first, second = sum(epochs[:3], ()), sum(epochs[3:], ())
    assert sorted(first) == sorted(second) == sorted(str(i) for i in range(10))
    assert first != second
    assert epochs != ids(10, size=4, total=6, seed=1)
    assert [len(batch) for batch in epochs] == [4, 4, 2, 4, 4, 2]


def test_columns_travel_together() -> None:
    """Input, label and id of a sample stay together in a batch."""
    for step in range(5):
        batch = batch_of(numbered(9), step, size=4, seed=2)
        assert batch.inputs[:, 0].tolist() == batch.targets.tolist() == [int(i) for i in batch.ids]


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7])
def test_a_resumed_order_is_the_tail_of_the_whole(start: int) -> None:
    """Starting at any step gives what was still to come, across epochs."""
    assert ids(10, size=4, total=8, start=start) == ids(10, size=4, total=8)[start:]


def test_processes_share_each_batch() -> None:
    """The shares of two processes are disjoint and together the batch of one process; of an odd one the first has one more."""
    whole, left, right = (ids(13, size=8, total=4, rank=r, world=w) for r, w in ((0, 1), (0, 2), (1, 2)))
    for batch, one, other in zip(whole, left, right, strict=True):
        assert len(one) - len(other) == len(batch) % 2
        assert {*one, *other} == {*batch} and len(one) + len(other) == len(batch)


def test_bad_sizes_are_refused() -> None:
    """A batch that cannot be shared and too few samples are named."""
    with pytest.raises(BadRequest, match="33 samples cannot be shared by 2"):
        steps_per_epoch(100, size=33, world=2)
    with pytest.raises(BadRequest, match="0 samples"):
        steps_per_epoch(100, size=0)
    with pytest.raises(BadData, match="has 1 samples"):
        steps_per_epoch(1, size=8)


def test_derived_seeds_differ() -> None:
    """Order and every part matter, and the seed fits torch's generator."""
    seeds = {derived_seed(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, 23) != derived_seed(12, 3)


@pytest.mark.parametrize(("n", "size", "world"), [(100, 32, 1), (96, 32, 2), (97, 32, 1), (101, 32, 2), (7, 16, 2), (66, 32, 2)])
def test_samples_of_a_step_are_those_of_its_batches(n: int, size: int, world: int) -> None:
    """Over two epochs, summed over processes."""
    samples = Samples(torch.zeros(n, 1), torch.zeros(n, dtype=torch.long), tuple(map(str, range(n))))
    total = 2 * steps_per_epoch(n, size=size, world=world)
    parts = [[batch_of(samples, step, size=size, seed=0, rank=rank, world=world) for rank in range(world)] for step in range(total)]
    drawn = [sum(map(len, step)) for step in parts]
    assert drawn == [samples_of_step(n, size=size, world=world, step=step) for step in range(total)]
