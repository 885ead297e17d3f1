"""Where channels lie after a function that moves, averages, adds or takes away numbers of a tensor.

Source: none; see channel_groups.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from sparsify_cli.maths.channel_axes import Axis, Run
from sparsify_cli.maths.channel_follower import Follower
from sparsify_cli.maths.channel_spaces import CONCATENATIONS, DIVISIONS
from sparsify_cli.maths.traced import given, shape_of


def flatten(to: Follower, node: fx.Node, start: int | None = None, end: int | None = None) -> None:
    """Several axes become one: of the first of them a channel becomes a block of entries."""
    source = node.all_input_nodes[0]
    shape, axis = shape_of(source), to.axes.get(source)
    first = (given(node, 1, "start_dim", 0) if start is None else start) % len(shape)
    last = (given(node, 2, "end_dim", -1) if end is None else end) % len(shape)
    if axis is None:
        return
    if axis.dim < first:
        to.axes[node] = axis
    elif axis.dim > last:
        to.axes[node] = axis.at(axis.dim - (last - first))
    elif axis.dim == first:
        to.axes[node] = axis.widened(first, torch.Size(shape[first + 1 : last + 1]).numel())
    else:
        to.unknown(node, "`flatten` of an axis before the channels")


def reshape(to: Follower, node: fx.Node) -> None:
    """A view that changes nothing, or flattens the last axes."""
    source = node.all_input_nodes[0]
    before, after = shape_of(source), shape_of(node)
    last = len(after) - 1
    if before == after:
        if source in to.axes:
            to.axes[node] = to.axes[source]
    elif last < len(before) - 1 and before[:last] == after[:last]:
        flatten(to, node, last, -1)
    else:
        to.unknown(node, f"`{node.name}` (a new shape)")
    axis, sizes = to.axes.get(node), _flat(node.args[1:] or node.kwargs.values())
    if axis is not None and len(sizes) == len(after) and isinstance(sizes[axis.dim], int) and sizes[axis.dim] != -1:
        axis.mix(f"the network's code says how many there are: `{node.name}` to {sizes[axis.dim]}")


def mean(to: Follower, node: fx.Node) -> None:
    """A mean over other axes leaves channels alone; one over them is the same in any order."""
    source = node.all_input_nodes[0]
    axis, size = to.axes.get(source), len(shape_of(source))
    asked = given(node, 1, "dim", None)
    dims = range(size) if asked is None else [d % size for d in ([asked] if isinstance(asked, int) else asked)]
    if axis is None:
        return
    if axis.dim in dims:
        axis.mix(f"`{node.name}` is a mean over them")
    else:
        dropped = 0 if len(shape_of(node)) == size else sum(d < axis.dim for d in dims)
        to.axes[node] = axis.at(axis.dim - dropped)


def permute(to: Follower, node: fx.Node) -> None:
    """Axes in another order."""
    source = node.all_input_nodes[0]
    order = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
    _moved(to, node, source, [int(d) % len(shape_of(source)) for d in order])  # type: ignore[arg-type]


def transpose(to: Follower, node: fx.Node) -> None:
    """Two axes change places."""
    source = node.all_input_nodes[0]
    order = list(range(len(shape_of(source))))
    one, other = given(node, 1, "dim0", 0), given(node, 2, "dim1", 1)
    order[one], order[other] = order[other], order[one]
    _moved(to, node, source, order)


def _moved(to: Follower, node: fx.Node, source: fx.Node, order: list[int]) -> None:
    axis = to.axes.get(source)
    if axis is not None:
        to.axes[node] = axis.at(order.index(axis.dim))


def pad(to: Follower, node: fx.Node) -> None:
    """Around channels go others, which are constants and as many as the code says."""
    source = node.all_input_nodes[0]
    axis, shape = to.axes.get(source), shape_of(source)
    if axis is None:
        return None
    amounts, behind = given(node, 1, "pad", ()), 2 * (len(shape) - 1 - axis.dim)
    before, after = (*amounts[behind : behind + 2], 0, 0)[:2]
    if before == after == 0:
        return to.same(node)
    if min(before, after) < 0 or given(node, 2, "mode", "constant") != "constant":
        return to.unknown(node, f"`{node.name}` (which moves channels)")
    reason = f"`{node.name}` pads the {shape[axis.dim]} channels to {shape_of(node)[axis.dim]}"
    sides = [(Run(to.space(count, reason)),) if count else () for count in (before, after)]
    to.axes[node] = Axis(axis.dim, (*sides[0], *axis.parts, *sides[1]))
    return None


def index(to: Follower, node: fx.Node) -> None:
    """One of several pieces, or a slice: of other axes, or some channels in a row."""
    source, asked = node.all_input_nodes[0], node.args[1]
    if source in to.divided:
        return _picked(to, node, to.divided[source][asked])  # type: ignore[index]
    axis, asked = to.axes.get(source), asked if isinstance(asked, tuple) else (asked,)
    if axis is None:
        return
    plain = all(isinstance(i, slice) for i in asked[: axis.dim]) and all(isinstance(i, int | slice) for i in asked)
    of_channels = asked[axis.dim : axis.dim + 1]
    if plain and all(i == slice(None) for i in of_channels):
        to.axes[node] = axis
    elif plain and all(isinstance(i, slice) and i.step in (None, 1) for i in of_channels):
        start, stop, _ = of_channels[0].indices(axis.width)  # type: ignore[union-attr, call-arg]
        _divided(to, node, axis, [start, max(0, stop - start), axis.width - max(start, stop)])
        if node in to.divided:
            _picked(to, node, to.divided.pop(node)[1])
    else:
        to.unknown(node, f"indexing in `{node.name}`")


def _picked(to: Follower, node: fx.Node, found: Axis | list[Axis | None] | None) -> None:
    """One piece, or several that are still apart."""
    if isinstance(found, list):
        to.divided[node] = found
    elif found is not None:
        to.axes[node] = found


def divide(to: Follower, node: fx.Node) -> None:
    """Pieces along an axis."""
    source = node.all_input_nodes[0]
    axis, shape = to.axes.get(source), shape_of(source)
    dim, sizes = given(node, 2, "dim", 0) % len(shape), [piece.shape for piece in node.meta["tensor_meta"]]
    if axis is not None and axis.dim == dim:
        _divided(to, node, axis, [size[dim] for size in sizes])
    elif axis is not None:
        to.divided[node] = [axis] * len(sizes)


def _divided(to: Follower, node: fx.Node, axis: Axis, sizes: Sequence[int]) -> None:
    """Runs of channels of these sizes; the code that names them counts on them."""
    pieces = axis.pieces(sizes)
    if pieces is None:
        return to.unknown(node, f"`{node.name}` (which divides channels)")
    axis.mix(f"the network's code says where to divide them: `{node.name}`")
    to.divided[node] = [*pieces]
    return None


def concatenate(to: Follower, node: fx.Node) -> None:
    """Tensors one after the other: along the channels their runs are, along another axis their channels are one."""
    sources: Any = given(node, 0, "tensors", ())
    size = len(shape_of(node))
    dim = given(node, 1, "dim", node.kwargs.get("axis", 0)) % size
    axes = to.divided.get(sources, []) if isinstance(sources, fx.Node) else [to.axes.get(one) for one in sources]
    known = [axis for axis in axes if axis is not None]
    if not known:
        return
    if all(axis.dim == dim for axis in known):
        reason = f"`{node.name}` puts a tensor beside others whose channels are not followed"
        filled = [axis or Axis.of(to.space(shape_of(sources[i])[dim], reason), dim) for i, axis in enumerate(axes)]
        to.axes[node] = Axis(dim, tuple(part for axis in filled for part in axis.parts))
    else:
        to.axes[node] = first = next(axis for axis in known if axis.dim != dim)
        for source in dict.fromkeys(node.all_input_nodes):
            if source not in to.divided:
                to.meet(source, size - first.dim, first, f"`{node.name}`")
        for axis in known if isinstance(sources, fx.Node) else ():
            first.merge(axis, f"`{node.name}`")


def _flat(sizes: Any) -> list[Any]:
    """Sizes of a new shape, given one by one or as a tuple."""
    return [size for part in sizes for size in (part if isinstance(part, list | tuple) else [part])]


Move = Callable[..., None]
MOVES: Mapping[str, Move] = MappingProxyType(
    {
        **{"flatten": flatten, "view": reshape, "reshape": reshape, "mean": mean, "permute": permute, "transpose": transpose},
        **{"pad": pad, "getitem": index},
        **dict.fromkeys(CONCATENATIONS, concatenate),
        **dict.fromkeys(DIVISIONS, divide),
    }
)
"""Name of a function -> what it does to the axes."""
