"""Which parameters share the order of a network's channels, so that reordering them all leaves its function as it was.

The network is traced (torch.fx) and run once for shapes. Along each tensor one axis of channels is followed, from the layer
that makes it to those that read it. All axes that must agree are one group:

    makes      rows of a convolution or linear layer, columns of an embedding, and its bias
    passes     batch norm, layer norm over the channels, activations, dropout, pooling, means, slices that leave channels alone,
               flattening (a channel becomes a block of columns), transposing
    joins      sums and products of two tensors, and of a tensor with a parameter
    reads      columns of a convolution or linear layer

Everything else blocks the groups it touches, with the reason: the network's inputs and outputs, concatenation, convolutions
with groups, zero-padding of channels, attention, and every operation that is not listed here.

Source: Pool and Yu 2021 (NeurIPS), section 4; NVIDIA/apex contrib/sparsity/permutation_lib.py. Differs: an operation is taken for
harmless only when it is known to be; flattening is followed; parameters used twice, or under two names, hold their groups together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsify_cli.maths.channel_spaces import (
    BATCH_NORMS,
    CONVOLUTIONS,
    ELEMENTWISE,
    JOINS,
    POOLING,
    POOLS,
    SAME,
    SIZES,
    Axis,
    ChannelGroup,
    ChannelGroups,
    Heard,
    Place,
    Space,
)
from sparsify_cli.maths.traced import Untraceable, attribute, given, name_of, shape_of, tensor_shape, traced


def channel_groups(module: nn.Module, inputs: Tensor, *, depthwise: bool = False) -> ChannelGroups:
    """Follow the channels of a network.

    Args:
        module: left as it was; a copy is traced in eval mode.
        inputs: [n, ...] samples; one pass tells the shapes.
        depthwise: channels pass convolutions with one group for each, which otherwise block them as other groups do.
    """
    try:
        graph, copy = traced(module, inputs)
    except Untraceable as error:
        return ChannelGroups(untraced=str(error))
    return ChannelGroups(_Follower(graph, copy.state_dict(keep_vars=True), depthwise).groups())


class _Follower:
    """Walks a traced network and collects its spaces."""

    def __init__(self, graph: fx.GraphModule, state: dict[str, Tensor], depthwise: bool) -> None:
        self.traced, self.depthwise, self.spaces = graph, depthwise, list[Space]()
        self.axes: dict[fx.Node, Axis] = {}
        self.known: dict[tuple[int, int], tuple[Space, int]] = {}
        self.names: dict[int, list[str]] = {}
        for name, tensor in state.items():
            self.names.setdefault(id(tensor), []).append(name)

    def groups(self) -> tuple[ChannelGroup, ...]:
        for node in self.traced.graph.nodes:
            try:
                self._visit(node)
            except (TypeError, ValueError, IndexError):  # arguments that are themselves computed, or of an unusual form
                self._unknown(node, f"`{node.name}`")
        return tuple(_group_of(space) for space in self.spaces if space.into is None and space.members)

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._fresh(node, "they are the network's input")
        elif node.op == "output":
            self._block(node.all_input_nodes, "they are the network's output")
        elif node.op == "call_module":
            self._module(node, self.traced.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            self._function(node, name_of(node))

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        for kinds, follow in self._layers():
            if isinstance(module, kinds) and type(module).__module__.startswith("torch.nn"):
                return follow(node, module)
        for tensor in (*module.parameters(), *module.buffers()):
            self._block_parameter(tensor, f"`{node.target}` ({type(module).__name__}) is not followed")
        return self._unknown(node, f"`{node.target}` ({type(module).__name__})")

    def _layers(self) -> Iterable[tuple[Any, Callable[[fx.Node, Any], None]]]:
        yield CONVOLUTIONS, self._convolution
        yield nn.Linear, self._linear
        yield nn.Embedding, self._embedding
        yield BATCH_NORMS, self._batch_norm
        yield nn.LayerNorm, self._layer_norm
        yield nn.PReLU, self._prelu
        yield ELEMENTWISE, lambda node, _: self._same(node)
        yield POOLS, lambda node, _: self._pool(node)
        yield nn.Flatten, lambda node, module: self._flatten(node, module.start_dim, module.end_dim)

    def _function(self, node: fx.Node, name: str) -> None:
        if name in SIZES and not shape_of(node):
            return  # a size, which no order of channels changes
        if name not in JOINS:
            self._block((n for n in node.all_input_nodes if n.op == "get_attr"), f"`{name}` uses it in a way that is not followed")
        follow = self._functions().get(name)
        if name in SAME:
            self._same(node)
        elif name in POOLING:
            self._pool(node)
        elif name in JOINS:
            self._join(node)
        elif follow is not None:
            follow(node)
        else:
            self._unknown(node, f"`{name}`")

    def _functions(self) -> dict[str, Callable[[fx.Node], None]]:
        return {
            "flatten": lambda node: self._flatten(node, given(node, 1, "start_dim", 0), given(node, 2, "end_dim", -1)),
            "view": self._reshape,
            "reshape": self._reshape,
            "mean": self._mean,
            "permute": self._permute,
            "transpose": self._transpose,
            "pad": self._pad,
            "getitem": self._slice,
        }

    def _convolution(self, node: fx.Node, module: Any) -> None:
        source, dim = node.all_input_nodes[0], len(shape_of(node)) - module.weight.ndim + 1
        followed = source in self.axes and self.axes[source].dim == dim and self.axes[source].repeat == 1
        if self.depthwise and followed and 1 < module.groups == module.in_channels == module.out_channels:
            return self._along(node, [module.weight, module.bias], dim)
        if module.groups > 1:
            reason = f"`{node.target}` is a convolution in {module.groups} groups"
            self._block([source], reason)
            self._fresh(node, reason)
            return self._block_parameter(module.weight, reason)
        self._read(source, node, module.weight, dim)
        return self._make(node, module, dim)

    def _linear(self, node: fx.Node, module: nn.Linear) -> None:
        source = node.all_input_nodes[0]
        self._read(source, node, module.weight, len(shape_of(source)) - 1)
        self._make(node, module, len(shape_of(node)) - 1)

    def _embedding(self, node: fx.Node, module: nn.Embedding) -> None:
        axis = self._new_axis(node, len(shape_of(node)) - 1)
        self._place(axis, module.weight, 1, "makes")

    def _make(self, node: fx.Node, module: Any, dim: int) -> None:
        axis = self._new_axis(node, dim)
        self._place(axis, module.weight, 0, "makes")
        if module.bias is not None:
            self._place(axis, module.bias, 0, "goes along")

    def _read(self, source: fx.Node, reader: fx.Node, weight: Tensor, dim: int) -> None:
        axis, where = self.axes.get(source), f"`{reader.target}`"
        if axis is None or axis.dim != dim:
            if axis is not None:
                axis.space.block(f"{where} reads across them")
            axis = Axis(self._space(shape_of(source)[dim], f"{where} reads a tensor whose channels are not followed"), dim)
        self._place(axis, weight, 1, "reads")
        if id(weight) in self.names:
            axis.space.root().heard.append(Heard(self.names[id(weight)][0], str(reader.target), reader.name, dim, axis.repeat))

    def _batch_norm(self, node: fx.Node, module: Any) -> None:
        self._along(node, [module.weight, module.bias, module.running_mean, module.running_var], 1)

    def _layer_norm(self, node: fx.Node, module: nn.LayerNorm) -> None:
        if len(module.normalized_shape) > 1:
            self._unknown(node, f"`{node.target}` (a layer norm over several axes)")
        else:
            self._along(node, [module.weight, module.bias], len(shape_of(node)) - 1)
            axis = self.axes.get(node)
            if axis is not None and axis.dim == len(shape_of(node)) - 1:
                axis.space.mix(f"the layer norm `{node.target}` looks at all of them at once")

    def _prelu(self, node: fx.Node, module: nn.PReLU) -> None:
        self._along(node, [module.weight] if module.num_parameters > 1 else [], 1)

    def _along(self, node: fx.Node, tensors: list[Tensor | None], dim: int) -> None:
        """A layer with one number for each entry of axis `dim`; the channels pass."""
        self._same(node)
        axis = self.axes.get(node)
        for tensor in tensors:
            if tensor is not None and axis is not None and axis.dim == dim:
                self._place(axis, tensor, 0, "goes along")
            elif tensor is not None:
                self._block_parameter(tensor, f"`{node.target}` lies across channels")

    def _same(self, node: fx.Node) -> None:
        source = node.all_input_nodes[0]
        axis = self.axes.get(source)
        if axis is None:
            return
        if len(shape_of(source)) != len(shape_of(node)) or shape_of(source)[axis.dim] != shape_of(node)[axis.dim]:
            self._unknown(node, f"`{name_of(node)}`")
        elif len(node.all_input_nodes) > 1:
            self._unknown(node, f"`{name_of(node)}` of several tensors")
        else:
            self.axes[node] = axis

    def _pool(self, node: fx.Node) -> None:
        axis = self.axes.get(node.all_input_nodes[0])
        if axis is None or axis.dim == 1:
            self._same(node)
        else:
            self._unknown(node, f"`{node.name}` (pooling across channels)")

    def _join(self, node: fx.Node) -> None:
        axes = [self.axes[source] for source in node.all_input_nodes if source in self.axes]
        if not axes:
            return self._unknown(node, f"`{node.name}`")  # parameters, if anything
        widest = max(axes, key=lambda axis: axis.space.channels * axis.repeat)
        back = next(len(shape_of(source)) - widest.dim for source in node.all_input_nodes if self.axes.get(source) is widest)
        self.axes[node] = Axis(widest.space, len(shape_of(node)) - back, widest.repeat)
        for source in node.all_input_nodes:
            self._meet(source, back, widest, f"`{node.name}`")
        return None

    def _meet(self, source: fx.Node, back: int, axis: Axis, where: str) -> None:
        """One operand of a sum or product whose channels are `back` axes from the last."""
        shape, theirs = tensor_shape(self.traced, source), self.axes.get(source)
        wide = len(shape) >= back and shape[len(shape) - back] > 1
        if theirs is not None and (len(shape) - theirs.dim != back or (wide and theirs.repeat != axis.repeat)):
            for space in (axis.space, theirs.space):
                space.block(f"{where} combines channels along two axes")
        elif theirs is not None and wide:
            axis.space.merge(theirs.space, where)
        elif wide and source.op == "get_attr":
            self._place(axis, attribute(self.traced, str(source.target)), len(shape) - back, "goes along")
        elif wide:
            axis.space.block(f"{where} combines them with a tensor whose channels are not followed")

    def _flatten(self, node: fx.Node, start: int, end: int) -> None:
        source = node.all_input_nodes[0]
        shape, axis = shape_of(source), self.axes.get(source)
        first, last = start % len(shape), end % len(shape)
        if axis is None:
            return
        if axis.dim < first:
            self.axes[node] = axis
        elif axis.dim > last:
            self.axes[node] = Axis(axis.space, axis.dim - (last - first), axis.repeat)
        elif axis.dim == first:
            inner = torch.Size(shape[first + 1 : last + 1]).numel()
            self.axes[node] = Axis(axis.space, first, axis.repeat * inner)
        else:
            self._unknown(node, "`flatten` of an axis before the channels")

    def _reshape(self, node: fx.Node) -> None:
        source = node.all_input_nodes[0]
        before, after = shape_of(source), shape_of(node)
        last = len(after) - 1
        if before == after:
            if source in self.axes:
                self.axes[node] = self.axes[source]
        elif last < len(before) - 1 and before[:last] == after[:last]:
            self._flatten(node, last, -1)
        else:
            self._unknown(node, f"`{node.name}` (a new shape)")
        axis, sizes = self.axes.get(node), _flat(node.args[1:])
        if axis is not None and len(sizes) == len(after) and isinstance(sizes[axis.dim], int) and sizes[axis.dim] != -1:
            axis.space.mix(f"the network's code says how many there are: `{node.name}` to {sizes[axis.dim]}")

    def _mean(self, node: fx.Node) -> None:
        source = node.all_input_nodes[0]
        axis, size = self.axes.get(source), len(shape_of(source))
        asked = given(node, 1, "dim", None)
        dims = range(size) if asked is None else [d % size for d in ([asked] if isinstance(asked, int) else asked)]
        if axis is None:
            return
        if axis.dim in dims:
            return axis.space.mix(f"`{node.name}` is a mean over them")  # which is the same in any order
        dropped = 0 if len(shape_of(node)) == size else sum(d < axis.dim for d in dims)
        self.axes[node] = Axis(axis.space, axis.dim - dropped, axis.repeat)
        return None

    def _permute(self, node: fx.Node) -> None:
        source = node.all_input_nodes[0]
        order = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
        self._moved(node, source, [int(d) % len(shape_of(source)) for d in order])  # type: ignore[arg-type]

    def _transpose(self, node: fx.Node) -> None:
        source = node.all_input_nodes[0]
        order = list(range(len(shape_of(source))))
        one, other = given(node, 1, "dim0", 0), given(node, 2, "dim1", 1)
        order[one], order[other] = order[other], order[one]
        self._moved(node, source, order)

    def _moved(self, node: fx.Node, source: fx.Node, order: list[int]) -> None:
        axis = self.axes.get(source)
        if axis is not None:
            self.axes[node] = Axis(axis.space, order.index(axis.dim), axis.repeat)

    def _pad(self, node: fx.Node) -> None:
        source = node.all_input_nodes[0]
        axis = self.axes.get(source)
        if axis is not None and shape_of(source)[axis.dim] != shape_of(node)[axis.dim]:
            reason = f"`{node.name}` pads the {shape_of(source)[axis.dim]} channels to {shape_of(node)[axis.dim]}"
            axis.space.block(reason)
            self._fresh(node, reason, axis.dim)
        else:
            self._same(node)

    def _slice(self, node: fx.Node) -> None:
        source, index = node.all_input_nodes[0], node.args[1]
        axis, index = self.axes.get(source), index if isinstance(index, tuple) else (index,)
        if axis is None:
            return
        plain = all(isinstance(i, slice) for i in index[: axis.dim]) and all(isinstance(i, int | slice) for i in index)
        if plain and all(i == slice(None) for i in index[axis.dim : axis.dim + 1]):
            self.axes[node] = axis
        else:
            self._unknown(node, f"indexing in `{node.name}`")

    def _space(self, channels: int, blocked: str = "") -> Space:
        space = Space(channels, blocked=[blocked] if blocked else [])
        self.spaces.append(space)
        return space

    def _new_axis(self, node: fx.Node, dim: int) -> Axis:
        self.axes[node] = axis = Axis(self._space(shape_of(node)[dim]), dim)
        return axis

    def _fresh(self, node: fx.Node, reason: str, dim: int = 1) -> None:
        shape = shape_of(node)
        if len(shape) > dim:
            self.axes[node] = Axis(self._space(shape[dim], reason), dim)

    def _unknown(self, node: fx.Node, what: str) -> None:
        self._block(node.all_input_nodes, f"they go into {what}, which is not followed")
        self.axes.pop(node, None)

    def _block(self, nodes: Iterable[fx.Node], reason: str) -> None:
        for node in nodes:
            if node in self.axes:
                self.axes[node].space.block(reason)
            elif node.op == "get_attr":
                self._block_parameter(attribute(self.traced, str(node.target)), reason)

    def _block_parameter(self, tensor: Any, reason: str) -> None:
        """No group may hold this tensor, met already or still to be met."""
        if isinstance(tensor, Tensor):
            for dim in range(tensor.ndim):
                axis = Axis(self._space(tensor.shape[dim], reason), dim)
                self._place(axis, tensor, dim, "goes along")

    def _place(self, axis: Axis, tensor: Tensor, dim: int, role: str) -> None:
        names = self.names.get(id(tensor))
        if names is None:
            axis.space.block("a weight is computed from others when the network runs")
            return
        if tensor.shape[dim] != axis.space.channels * axis.repeat:
            axis.space.block(f"`{names[0]}` has {tensor.shape[dim]} entries for {axis.space.channels} channels")
        known = self.known.setdefault((id(tensor), dim), (axis.space, axis.repeat))
        if known[1] != axis.repeat:
            axis.space.block(f"`{names[0]}` is used in two shapes")
        axis.space.merge(known[0], f"`{names[0]}`")
        axis.space.root().members += [(role, Place(name, dim, axis.repeat)) for name in names]


def _group_of(space: Space) -> ChannelGroup:
    roles = dict.fromkeys(space.members)
    places = tuple(dict.fromkeys(place for _, place in roles))
    readers = tuple(place for role, place in roles if role == "reads")
    writers = tuple(place.name for role, place in roles if role == "makes")
    return ChannelGroup(space.channels, places, readers, writers, tuple(space.blocked), tuple(space.mixed), tuple(space.heard))


def _flat(sizes: Any) -> list[Any]:
    """Sizes of a new shape, given one by one or as a tuple."""
    return [size for part in sizes for size in (part if isinstance(part, list | tuple) else [part])]
