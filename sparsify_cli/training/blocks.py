"""Where a network is split among processes: block by block, each gathered when it is its turn and let go after.

Blocks are the outermost members of lists of layers (`nn.ModuleList`, `nn.Sequential`), which networks call one after the other; what lies
outside of them is one block of its own. A block that shares a parameter with the rest stays with the rest, so that tied weights stay tied.

Source: Zhao et al. 2023 (FSDP, arXiv 2304.11277), section 3.2: units of sharding; torch's `fully_shard`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from sparsify_cli.errors import BadRequest

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def split(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """The model, every parameter split by rows over the processes; changed in place.

    Args:
        model: parameters are those of rank 0, or the same on every process.
        mesh: the processes; their first dimension is along which gradients are averaged.

    Raises:
        BadRequest: a parameter has no rows.
    """
    from torch.distributed.fsdp import fully_shard

    scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise BadRequest(f"{scalars[0]!r} is a single number, which cannot be split among processes.", "", "Use --parallel ddp.")
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # rows lie together
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """What is gathered together, the rest of the model excepted; none within another."""
    holders = Counter(id(parameter) for part in model.modules() for parameter in part.parameters(recurse=False))
    return [block for block in _outermost(model) if _owns(block, holders)]


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield child
        else:
            yield from _outermost(child)


def _owns(block: nn.Module, holders: Counter[int]) -> bool:
    """True when it has parameters, and none that something outside of it holds, too."""
    inside = Counter(id(parameter) for part in block.modules() for parameter in part.parameters(recurse=False))
    return bool(inside) and all(holders[one] == count for one, count in inside.items())
