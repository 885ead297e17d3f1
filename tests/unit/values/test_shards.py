"""Tensors of which each process holds some rows; with several processes: `tests/claims/test_processes.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.shards import apart, as_one, here, is_split, rows, split_like, whole


class Rows:
    """What a split tensor says of itself, on one of several processes."""

    def __init__(self, count: int, processes: int, rank: int) -> None:
        self.count, self.device_mesh = count, SimpleNamespace(size=lambda: processes, get_local_rank=lambda: rank)

    def __len__(self) -> int:
        """All rows."""
        return self.count

    def full_tensor(self) -> Tensor:
        """Never asked here."""
        raise AssertionError


@pytest.fixture
def like(tmp_path: Path) -> Iterator[Tensor]:
    """A split tensor, of a group of one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield distribute_tensor(torch.zeros(3, 2), init_device_mesh("cpu", (1,)), [Shard(0)])
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 7, 12])
def test_rows_are_those_of_torch(count: int, processes: int) -> None:
    """Every process has the rows that torch.chunk would give it; the last ones may have none."""
    numbers = torch.arange(count)
    chunks = [chunk.tolist() for chunk in numbers.chunk(processes)]
    found = [numbers[rows(Rows(count, processes, rank))].tolist() for rank in range(processes)]  # type: ignore[arg-type]
    assert found == chunks + [[]] * (processes - len(chunks))


def test_whole_tensors_are_themselves() -> None:
    """Outside of several processes nothing is copied."""
    tensor = torch.arange(6.0).reshape(3, 2)
    assert not is_split(tensor)
    assert rows(tensor) == slice(None)
    assert whole(tensor) is tensor is here(tensor) is split_like(tensor, tensor)
    assert whole({"a": [tensor, 3], "b": "text"}) == {"a": [tensor, 3], "b": "text"}


def test_splitting_and_gathering(like: Tensor) -> None:
    """There and back, in mappings and lists, also with another number of rows."""
    for shape in ((3, 2), (5,), (2, 4, 3)):
        tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
        there = split_like(tensor, like)
        assert is_split(there)
        assert there.shape == tensor.shape
        assert torch.equal(whole({"a": [there]})["a"][0], tensor)


def test_split_tensors_meet_whole_ones(like: Tensor) -> None:
    """A mask that is whole applies to a split weight, and numbers are numbers; outside this is refused."""
    mask = torch.tensor([[True, False]] * 3)
    with as_one():
        like.masked_fill_(mask, 2.0)
        assert float(like.sum()) == 6.0
        assert (like.max().item(), bool((like > 3).any()), int(like.sum())) == (2.0, False, 6)
        with pytest.raises(BadRequest, match=r"weight outside of the block.*--parallel ddp"), apart():
            like * torch.ones(3, 2)
    with pytest.raises(RuntimeError, match="mixed"), apart():
        like.masked_fill_(mask, 1.0)
    assert torch.equal(here(like), torch.tensor([[2.0, 0.0]] * 3))


def test_what_would_be_lost_is_refused(like: Tensor) -> None:
    """A whole tensor does not take in a split one, in place; and masks are whole."""
    with as_one():
        with pytest.raises(AssertionError):
            torch.ones(3, 2).add_(like)
        assert torch.equal(whole(torch.ones(3, 2).add(like)), torch.ones(3, 2))
        with pytest.raises(TypeError, match="whole on every process"):
            MaskSet({"weight": like != 0})
    assert not MaskSet.from_zeros({"weight": like})["weight"].any()
