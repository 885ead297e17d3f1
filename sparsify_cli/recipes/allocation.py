"""Allocations by name: how the zeros of a model are shared among its layers. The functions are in `maths/allocate.py`."""

from __future__ import annotations

from sparsify_cli.errors import UnknownName

ALLOCATION_SUMMARIES = {
    "uniform": "The same sparsity in every layer that carries the pattern.",
    "global": "One ranking over all layers: scores compete across tensors.",
    "erk": "Small layers stay denser: Erdos-Renyi-Kernel densities, as in RigL.",
}
"""name -> one plain line, the first line of the function's docstring."""

ALLOCATION_NAMES = tuple(ALLOCATION_SUMMARIES)


def parse_allocation(name: str) -> str:
    """The name itself, if there is such an allocation.

    Raises:
        UnknownName: with the nearest match and the list.
    """
    if name not in ALLOCATION_SUMMARIES:
        raise UnknownName("allocation", name, ALLOCATION_NAMES)
    return name
