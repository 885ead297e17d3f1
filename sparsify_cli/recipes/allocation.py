"""Allocations by name: how the zeros of a model are shared among its layers.

The functions are in `maths/allocate.py`, and in `maths/knapsack.py` those that need measured costs.
"""

from __future__ import annotations

from sparsify_cli.errors import UnknownName

ALLOCATION_SUMMARIES = {
    "auto": "dp where a --solver repairs layer by layer; uniform where scores of layers cannot be compared; else global.",
    "uniform": "The same sparsity in every layer that carries the pattern.",
    "global": "One ranking over all layers: scores compete across tensors.",
    "erk": "Small layers stay denser: Erdos-Renyi-Kernel densities, as in RigL.",
    "lamp": "One ranking of each score's share in what outlives it: the layers adapt, as in LAMP.",
    "owl": "Blocks with more outlying scores stay denser: outlier-weighed densities, as in OWL.",
    "dp": "The least sum of measured errors within the budget, by dynamic programming over levels, as in OBC and SPDY.",
    "sensitivity": "Layers whose measured error rises fast with their zeros get few of them.",
}
"""name -> one plain line, the first line of the function's docstring."""

NEEDS_COSTS = frozenset({"dp", "sensitivity"})
"""Those that need each layer's error at several levels, which only calibration data give."""

ALLOCATION_NAMES = tuple(name for name in ALLOCATION_SUMMARIES if name not in NEEDS_COSTS | {"auto"})
"""Those for which scores, or sizes alone, are enough."""


def parse_allocation(name: str) -> str:
    """The name itself, if there is such an allocation.

    Raises:
        UnknownName: with the nearest match and the list.
    """
    if name not in ALLOCATION_SUMMARIES:
        raise UnknownName("allocation", name, ALLOCATION_SUMMARIES)
    return name
