"""Shards: tensors of which each process holds some rows, and what the rest of the house needs in order not to know.

`fully_shard` replaces a parameter by a tensor of the same shape whose rows lie on several processes. Arithmetic on it is arithmetic on
the rows here, its gradient and the optimizer's memory of it are split alike. Three things differ, and they are here:

    a tensor that every process has whole (a mask, noise, a saved weight) may meet it      `as_one`
    a number read from it is that of all rows, not of those here                           `as_one`
    who ranks, saves or hashes needs it whole                                              `whole`

`whole` and numbers talk to the other processes, so every process must come by: masks stay whole everywhere (`MaskSet` refuses others),
and only what is not split is asked by one process alone. In forward and backward passes each process has a batch of its own, which no
weight of which only rows are here may meet: there nothing of this holds (`apart`), and torch refuses it.

Source: Zhao et al. 2023 (FSDP, arXiv 2304.11277); torch's per-parameter sharding (`torch.distributed.fsdp.fully_shard`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparsify_cli.errors import BadRequest

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_split(value: object) -> bool:
    """True for a tensor of which other processes hold a part."""
    return hasattr(value, "full_tensor")


def whole(value: Any) -> Any:
    """A tensor with all its rows, on every process; mappings and lists item by item, anything else as it is."""
    if isinstance(value, Mapping):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(one) for one in value)
    return value.detach().full_tensor() if is_split(value) else value


def saved(value: Any) -> Any:
    """As `whole`, one tensor at a time, what was split on the CPU: all of them together may be more than a device holds."""
    if isinstance(value, Mapping):
        return {name: saved(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(saved(one) for one in value)
    return whole(value).cpu() if is_split(value) else value


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor split among the processes of `like`, whatever the number of its rows; itself where that is whole. Nothing is sent."""
    if not is_split(like) or is_split(tensor):
        return tensor
    from torch.distributed.tensor import DTensor

    here = tensor[_rows(len(tensor), like.device_mesh)].to(like.device).contiguous()  # type: ignore[attr-defined]
    return DTensor.from_local(here, like.device_mesh, like.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())  # type: ignore[attr-defined]


def rows(tensor: Tensor) -> slice:
    """Which rows lie here; all of a whole tensor."""
    return _rows(len(tensor), tensor.device_mesh) if is_split(tensor) else slice(None)  # type: ignore[attr-defined]


def _rows(count: int, mesh: DeviceMesh) -> slice:
    each = -(-count // mesh.size())  # as torch.chunk: the last processes may have fewer, or none
    return slice(*(min(each * (mesh.get_local_rank() + end), count) for end in (0, 1)))


def here(tensor: Tensor) -> Tensor:
    """The rows that lie here, as an ordinary tensor that shares their memory."""
    return tensor.to_local() if is_split(tensor) else tensor  # type: ignore[attr-defined]


@contextmanager
def as_one() -> Iterator[None]:
    """Inside, split tensors meet whole ones, which every process must have alike, and a number read from them is that of all processes."""
    with _meeting(True), _Together():
        yield


@contextmanager
def apart() -> Iterator[None]:
    """Inside, where networks are run, split tensors meet no whole ones, also within `as_one`.

    Raises:
        BadRequest: the network, or what is minimised, would let them meet.
    """
    if not _Together.inside:
        yield
        return
    try:
        with _meeting(False):
            yield
    except RuntimeError as error:
        if "mixed torch.Tensor and DTensor" not in str(error):
            raise
        what = "The network, or what is minimised, uses a weight outside of the block that holds it."
        why = "With --parallel fsdp a weight is whole only while its block (a member of nn.Sequential or nn.ModuleList) is called."
        raise BadRequest(what, why, "Use --parallel ddp.") from error


@contextmanager
def _meeting(allowed: bool) -> Iterator[None]:
    from torch.distributed.tensor import DTensor

    dispatcher = DTensor._op_dispatcher  # torch's own `implicit_replication` does not put back what it found
    before = (dispatcher._allow_implicit_replication, _Together.inside, _Together.meets)
    dispatcher._allow_implicit_replication, _Together.inside, _Together.meets = allowed, True, allowed
    try:
        yield
    finally:
        dispatcher._allow_implicit_replication, _Together.inside, _Together.meets = before


READERS = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__int__, Tensor.__float__, Tensor.__bool__, Tensor.__index__}
"""What turns a tensor into numbers; of a sum over rows that lie elsewhere, too, each would read the share that is here."""


class _Together(TorchFunctionMode):
    """Reads numbers of all processes, and splits a whole tensor that meets a split one of its shape."""

    inside = meets = False

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in READERS and is_split(args[0]):
            args = (whole(args[0]), *args[1:])
        elif self.meets:
            args = _met(args, changes_first=_changes_first(getattr(func, "__name__", "")))
        return func(*args, **(kwargs or {}))


def _met(args: tuple[Any, ...], *, changes_first: bool) -> tuple[Any, ...]:
    """Arguments, those of a split one's shape split alike; a whole tensor that would be changed stays, so that nothing is lost."""
    like = next((one for one in args if is_split(one)), None)
    if like is None:
        return args
    fits = [isinstance(one, Tensor) and one.shape == like.shape and not (changes_first and place == 0) for place, one in enumerate(args)]
    return tuple(split_like(one, like) if fit else one for one, fit in zip(args, fits, strict=True))


def _changes_first(name: str) -> bool:
    """True for a function that changes its first argument: `add_`, `__iadd__`, `__setitem__`."""
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name != "__invert__")
    return name.endswith("_")
