"""What a nest's file takes beside the dense network alone, and of what: each level's own state, which small networks have much of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_plan import Plan, read_plan
from sparsify_cli.values.ranges import ranges
from sparsify_cli.values.tensor_size import packed_bytes

MOST = 1.05
"""Times the packed last network that a nest takes, without the places of its weights, beyond which that is told."""
FEWER = "Fewer levels make it smaller."
SMALLER = "Fewer levels, or --state shared (statistics are then measured when a level is taken out), make it smaller."


def size_notes(path: Path, nest: Nest, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """One sentence where a nest takes much more than its last network alone and what says which weight is of which level.

    Args:
        path: the nest's file.
        nest: what it holds.
        tensors: of its last network.
    """
    with ranges(path) as source:
        plan = read_plan(source)
    packed, places, size = packed_bytes(tensors), _places(plan), path.stat().st_size
    times = (size - places) / packed
    if times > MOST:
        own, do = _repeated(plan, nest), FEWER if nest.state == "shared" else SMALLER
        what = f"the {nest.levels} levels take {size:,} bytes, {times:.2f} x the packed last network ({packed:,}) and {places:,} of places"
        yield f"{what}; {own:,} are state that levels have of their own, {plan.start:,} the header. {do}"


def _places(plan: Plan) -> int:
    """Bytes that say which weight belongs to which level."""
    return sum(code.size for level in plan.codes for code in level)


def _repeated(plan: Plan, nest: Nest) -> int:
    """Bytes of side state that levels after the first store again."""
    names = [name for name, _, _ in plan.side]
    return sum(nest.side[0][names[i]].nbytes for own in plan.own[1:] for i in own)
