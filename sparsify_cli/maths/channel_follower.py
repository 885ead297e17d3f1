"""What is known of a traced network's channels on the way through it: the axis of every tensor, and the spaces they belong to.

Source: none; see channel_groups.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx

from sparsify_cli.maths.channel_axes import Axis
from sparsify_cli.maths.channel_spaces import Heard, Place, Space
from sparsify_cli.maths.traced import attribute, name_of, shape_of, tensor_shape


class Follower:
    """The axes of a traced network's tensors.

    Args:
        graph: the network.
        state: its tensors, shared ones under all of their names.

    Attributes:
        axes: node -> the axis of its tensor that is followed.
        divided: node that gives several tensors -> their axes.
        spaces: all of them.
    """

    def __init__(self, graph: fx.GraphModule, state: dict[str, Tensor]) -> None:
        self.traced, self.spaces = graph, list[Space]()
        self.axes: dict[fx.Node, Axis] = {}
        self.divided: dict[fx.Node, list[Axis | None]] = {}
        self.known: dict[tuple[int, int], Axis] = {}
        self.names: dict[int, list[str]] = {}
        for name, tensor in state.items():
            self.names.setdefault(id(tensor), []).append(name)

    def space(self, channels: int, blocked: str = "") -> Space:
        """A new space."""
        self.spaces.append(Space(channels, blocked=[blocked] if blocked else []))
        return self.spaces[-1]

    def new_axis(self, node: fx.Node, dim: int) -> Axis:
        """New channels along an axis of a node's tensor."""
        self.axes[node] = axis = Axis.of(self.space(shape_of(node)[dim]), dim)
        return axis

    def fresh(self, node: fx.Node, reason: str, dim: int = 1) -> None:
        """New channels that may not be reordered."""
        shape = shape_of(node)
        if len(shape) > dim:
            self.axes[node] = Axis.of(self.space(shape[dim], reason), dim)

    def same(self, node: fx.Node) -> None:
        """The channels of a node are those of the tensor it is made from."""
        source = node.all_input_nodes[0]
        axis = self.axes.get(source)
        if axis is None:
            return
        if len(shape_of(source)) != len(shape_of(node)) or shape_of(source)[axis.dim] != shape_of(node)[axis.dim]:
            self.unknown(node, f"`{name_of(node)}`")
        elif any(tensor_shape(self.traced, other) for other in node.all_input_nodes[1:]):
            self.unknown(node, f"`{name_of(node)}` of several tensors")
        else:
            self.axes[node] = axis

    def unknown(self, node: fx.Node, what: str) -> None:
        """Nothing is known of what a node does: what goes into it keeps its order."""
        self.block(node.all_input_nodes, f"they go into {what}, which is not followed")
        self.axes.pop(node, None)

    def block(self, nodes: Iterable[fx.Node], reason: str) -> None:
        """The channels of these tensors keep their order."""
        for node in nodes:
            for axis in (self.axes.get(node), *self.divided.get(node, ())):
                if axis is not None:
                    axis.block(reason)
            if node.op == "get_attr" and node not in self.axes:
                self.block_parameter(attribute(self.traced, str(node.target)), reason)

    def block_parameter(self, tensor: Any, reason: str) -> None:
        """No group may hold this tensor, met already or still to be met."""
        if isinstance(tensor, Tensor):
            for dim in range(tensor.ndim):
                self.place(Axis.of(self.space(tensor.shape[dim], reason), dim), tensor, dim, "goes along")

    def place(self, axis: Axis, tensor: Tensor, dim: int, role: str) -> None:
        """Say that a tensor of the state holds channels along an axis, as their maker, their reader, or beside them."""
        names = self.names.get(id(tensor))
        if names is None:
            return axis.block("a weight is computed from others when the network runs")
        if tensor.shape[dim] != axis.width:
            axis.block(f"`{names[0]}` has {tensor.shape[dim]} entries for {axis.width} channels")
            return self.block_parameter(tensor, f"`{names[0]}` does not fit the channels that it meets")
        axis.merge(self.known.setdefault((id(tensor), dim), axis), f"`{names[0]}`")
        for run, start in zip(axis.runs, axis.starts, strict=True):
            run.space.members += [(role, Place(name, dim, run.repeat, start)) for name in names]
        return None

    def hear(self, axis: Axis, weight: Tensor, layer: str, node: str, *, along: int = 1) -> None:
        """Say which layer reads channels, and in which call."""
        for run, start in zip(axis.runs, axis.starts, strict=True) if id(weight) in self.names else ():
            name = self.names[id(weight)][0]
            run.space.heard.append(Heard(name, layer, node, axis.dim, run.repeat, start, along))

    def join(self, node: fx.Node) -> None:
        """A sum or product, number by number: the channels of its operands are one."""
        axes = [self.axes[source] for source in node.all_input_nodes if source in self.axes]
        if not axes:
            return self.unknown(node, f"`{node.name}`")  # parameters, if anything
        widest = max(axes, key=lambda axis: axis.width)
        back = next(len(shape_of(source)) - widest.dim for source in node.all_input_nodes if self.axes.get(source) is widest)
        self.axes[node] = widest.at(len(shape_of(node)) - back)
        for source in node.all_input_nodes:
            self.meet(source, back, widest, f"`{node.name}`")
        return None

    def meet(self, source: fx.Node, back: int, axis: Axis, where: str) -> None:
        """One operand of something that has the channels of `axis`, `back` axes from the last."""
        shape, theirs = tensor_shape(self.traced, source), self.axes.get(source)
        wide = len(shape) >= back and shape[len(shape) - back] > 1
        if theirs is not None and len(shape) - theirs.dim != back:
            for one in (axis, theirs):
                one.block(f"{where} combines channels along two axes")
        elif theirs is not None and wide:
            axis.merge(theirs, where)
        elif wide and source.op == "get_attr":
            self.place(axis, attribute(self.traced, str(source.target)), len(shape) - back, "goes along")
        elif wide:
            axis.block(f"{where} combines them with a tensor whose channels are not followed")
