"""Which parameters share the order of a network's channels, so that reordering them all leaves its function as it was.

The network is traced (torch.fx) and run once for shapes. Along each tensor one axis of channels is followed, from the layer
that makes it to those that read it. All axes that must agree are one group:

    makes      rows of a convolution or linear layer (columns of a transposed convolution or an embedding), and its bias
    passes     batch and instance norm, layer norm over the channels, activations, dropout, pooling, resizing, means, slices that
               leave channels alone, flattening (a channel becomes a block of columns), transposing
    joins      sums and products of two tensors, and of a tensor with a parameter
    in groups      on demand: the groups of a convolution are its channels, several neighbours one before it and one behind it
    side by side   concatenation, zero-padding of channels; slices and splits take some away (see channel_axes.py)
    reads      columns of a convolution or linear layer (rows of a transposed convolution)

Everything else blocks what it touches, with the reason: the network's inputs and outputs, convolutions in groups by default,
attention other than torch's own, and every operation that is not listed here. The heads of torch's attention are channels, too.

Source: Pool and Yu 2021 (NeurIPS), section 4; NVIDIA/apex contrib/sparsity/permutation_lib.py. Differs: an operation is taken for
harmless only when it is known to be; flattening and concatenation are followed; parameters used twice, or under two names, hold
their groups together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn

from sparsify_cli.maths.channel_axes import Axis, Run
from sparsify_cli.maths.channel_follower import Follower
from sparsify_cli.maths.channel_moves import MOVES
from sparsify_cli.maths.channel_sizes import counts, sizes_of, takes_batches
from sparsify_cli.maths.channel_spaces import (
    BATCH_NORMS,
    CONVOLUTIONS,
    ELEMENTWISE,
    JOINS,
    POOLING,
    POOLS,
    SAME,
    SIZES,
    TRANSPOSED,
    ChannelGroup,
    ChannelGroups,
    Space,
)
from sparsify_cli.maths.fewer_heads import FewerHeads, is_followed
from sparsify_cli.maths.traced import Untraceable, given, mixed_name, name_of, shape_of, tensor_shape, traced


def channel_groups(module: nn.Module, inputs: Tensor, *, in_groups: bool = False) -> ChannelGroups:
    """Follow the channels of a network.

    Args:
        module: left as it was; a copy is traced in eval mode.
        inputs: [n, ...] samples; one pass tells the shapes.
        in_groups: a convolution in groups is followed, its groups move or go as a whole; otherwise it blocks what it reads.
    """
    try:
        graph, copy = traced(module, inputs)
    except Untraceable as error:
        return ChannelGroups(untraced=str(error))
    return ChannelGroups(_Layers(graph, copy.state_dict(keep_vars=True), in_groups).groups())


class _Layers(Follower):
    """Walks a traced network, layer by layer."""

    def __init__(self, graph: fx.GraphModule, state: dict[str, Tensor], in_groups: bool) -> None:
        super().__init__(graph, state)
        self.in_groups = in_groups

    def groups(self) -> tuple[ChannelGroup, ...]:
        """The groups of the whole network."""
        for node in self.traced.graph.nodes:
            try:
                self._visit(node)
            except (TypeError, ValueError, IndexError):  # arguments that are themselves computed, or of an unusual form
                self.unknown(node, f"`{node.name}`")
        for node, axis in self.axes.items():
            if any(counts(size) for size in sizes_of(node, axis.dim)):
                axis.mix(f"the network's code counts the channels of `{node.name}`")
        leaves = dict.fromkeys(leaf for space in self.spaces for leaf in space.leaves())
        return tuple(_group_of(leaf) for leaf in leaves if leaf.members)

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.fresh(node, "they are the network's input")
        elif node.op == "output":
            self.block(node.all_input_nodes, "they are the network's output")
        elif node.op == "call_module":
            self._module(node, self.traced.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            self._function(node, name_of(node))

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        for kinds, follow in self._kinds():
            if isinstance(module, kinds) and (type(module).__module__.startswith("torch.nn") or isinstance(module, FewerHeads)):
                return follow(node, module)
        return self._opaque(node, module)

    def _opaque(self, node: fx.Node, module: nn.Module) -> None:
        for tensor in (*module.parameters(), *module.buffers()):
            self.block_parameter(tensor, f"`{node.target}` ({type(module).__name__}) is not followed")
        self.unknown(node, f"`{node.target}` ({type(module).__name__})")

    def _kinds(self) -> Iterable[tuple[Any, Callable[[fx.Node, Any], None]]]:
        yield (*CONVOLUTIONS, *TRANSPOSED), self._convolution
        yield nn.Linear, self._linear
        yield nn.Embedding, self._embedding
        yield nn.MultiheadAttention, self._attention
        yield BATCH_NORMS, self._batch_norm
        yield nn.LayerNorm, self._layer_norm
        yield nn.PReLU, self._prelu
        yield ELEMENTWISE, lambda node, _: self.same(node)
        yield POOLS, lambda node, _: self._pool(node)
        yield nn.Flatten, lambda node, module: MOVES["flatten"](self, node, module.start_dim, module.end_dim)

    def _function(self, node: fx.Node, name: str) -> None:
        if name in SIZES and not shape_of(node):
            return  # a size, which no order of channels changes
        if name not in JOINS:
            self.block((n for n in node.all_input_nodes if n.op == "get_attr"), f"`{name}` uses it in a way that is not followed")
        if name in SAME:
            self.same(node)
        elif name in POOLING:
            self._pool(node)
        elif name in JOINS:
            self.join(node)
        elif name in MOVES:
            MOVES[name](self, node)
        else:
            self.unknown(node, f"`{name}`")

    def _convolution(self, node: fx.Node, module: Any) -> None:
        source, dim = node.all_input_nodes[0], len(shape_of(node)) - module.weight.ndim + 1
        turned = isinstance(module, TRANSPOSED)
        if self.in_groups and module.groups > 1 and not turned and source in self.axes and self.axes[source].dim == dim:
            return self._in_groups(node, module, dim)
        if module.groups > 1:
            reason = f"`{node.target}` is a convolution in {module.groups} groups"
            self.block([source], reason)
            self.fresh(node, reason)
            return self.block_parameter(module.weight, reason)
        self._read(source, node, module.weight, dim, along=0 if turned else 1)
        return self._make(node, module, dim, along=1 if turned else 0)

    def _in_groups(self, node: fx.Node, module: Any, dim: int) -> None:
        """Each group is one channel: some neighbours of what is read, and some of what is put out."""
        units = self.space(module.groups)
        read, made = (Axis(dim, (Run(units, size // module.groups),)) for size in (module.in_channels, module.out_channels))
        self.axes[node.all_input_nodes[0]].merge(read, f"`{node.target}`")
        self.axes[node] = made
        self.place(made.at(0), module.weight, 0, "passes")
        if module.bias is not None:
            self.place(made.at(0), module.bias, 0, "goes along")
        within = self.space(module.weight.shape[1], f"`{node.target}` is a convolution in {module.groups} groups")
        self.place(Axis.of(within, 1), module.weight, 1, "goes along")  # held, where another layer has the same weight

    def _linear(self, node: fx.Node, module: nn.Linear) -> None:
        source = node.all_input_nodes[0]
        self._read(source, node, module.weight, len(shape_of(source)) - 1)
        self._make(node, module, len(shape_of(node)) - 1)

    def _embedding(self, node: fx.Node, module: nn.Embedding) -> None:
        axis = self.new_axis(node, len(shape_of(node)) - 1)
        self.place(axis, module.weight, 1, "makes")
        if module.max_norm is not None:
            axis.mix(f"`{node.target}` limits the norm over all of them")

    def _make(self, node: fx.Node, module: Any, dim: int, *, along: int = 0) -> None:
        axis = self.new_axis(node, dim)
        self.place(axis, module.weight, along, "makes")
        if module.bias is not None:
            self.place(axis, module.bias, 0, "goes along")

    def _read(self, source: fx.Node, reader: fx.Node, weight: Tensor, dim: int, *, along: int = 1) -> None:
        axis, where = self.axes.get(source), f"`{reader.target}`"
        if axis is None or axis.dim != dim:
            if axis is not None:
                axis.block(f"{where} reads across them")
            axis = Axis.of(self.space(shape_of(source)[dim], f"{where} reads a tensor whose channels are not followed"), dim)
        self.place(axis, weight, along, "reads")
        self.hear(axis, weight, str(reader.target), reader.name, along=along)

    def _attention(self, node: fx.Node, module: nn.MultiheadAttention) -> None:
        """Heads are channels: `size` rows of queries, keys and values each, and `size` columns of `out_proj`."""
        if not is_followed(module):
            return self._opaque(node, module)
        query = given(node, 0, "query", None)
        last = len(shape_of(query)) - 1
        for source in dict.fromkeys((query, given(node, 1, "key", None), given(node, 2, "value", None))):
            self._read(source, node, module.in_proj_weight, last)
        reason = "the shares of attention are used, of all heads" if _gives_shares(node) else ""
        heads = Run(self.space(len(module.in_proj_weight) // 3 // module.head_dim, reason), module.head_dim)
        if why := _by_head(self.traced, node):
            heads.space.mix(why)
        for tensor, role in ((module.in_proj_weight, "makes"), (module.in_proj_bias, "goes along")):
            if tensor is not None:
                self.place(Axis(0, (heads, heads, heads)), tensor, 0, role)
        self.place(Axis(last, (heads,)), module.out_proj.weight, 1, "reads")
        self.hear(Axis(last, (heads,)), module.out_proj.weight, f"{node.target}.out_proj", mixed_name(node))
        made = Axis.of(self.space(len(module.out_proj.weight)), last)
        self.place(made, module.out_proj.weight, 0, "makes")
        if module.out_proj.bias is not None:
            self.place(made, module.out_proj.bias, 0, "goes along")
        self.divided[node] = [made, None]
        return None

    def _batch_norm(self, node: fx.Node, module: Any) -> None:
        if not takes_batches(type(module).__name__, node, also=2 if isinstance(module, nn.BatchNorm1d) else 0):
            return self._opaque(node, module)
        return self._along(node, [module.weight, module.bias, module.running_mean, module.running_var], 1)

    def _layer_norm(self, node: fx.Node, module: nn.LayerNorm) -> None:
        if len(module.normalized_shape) > 1:
            self.unknown(node, f"`{node.target}` (a layer norm over several axes)")
        else:
            self._along(node, [module.weight, module.bias], len(shape_of(node)) - 1)
            axis = self.axes.get(node)
            if axis is not None and axis.dim == len(shape_of(node)) - 1:
                axis.mix(f"the layer norm `{node.target}` looks at all of them at once")

    def _prelu(self, node: fx.Node, module: nn.PReLU) -> None:
        self._along(node, [module.weight] if module.num_parameters > 1 else [], 1)

    def _along(self, node: fx.Node, tensors: list[Tensor | None], dim: int) -> None:
        """A layer with one number for each entry of axis `dim`; the channels pass."""
        self.same(node)
        axis = self.axes.get(node)
        for tensor in tensors:
            if tensor is not None and axis is not None and axis.dim == dim:
                self.place(axis, tensor, 0, "goes along")
            elif tensor is not None:
                self.block_parameter(tensor, f"`{node.target}` lies across channels")

    def _pool(self, node: fx.Node) -> None:
        axis = self.axes.get(node.all_input_nodes[0])
        kind = type(self.traced.get_submodule(str(node.target))).__name__ if node.op == "call_module" else name_of(node)
        if axis is None or (axis.dim == 1 and takes_batches(kind, node)):
            self.same(node)
        else:
            self.unknown(node, f"`{node.name}` (pooling across channels)")


def _gives_shares(attention: fx.Node) -> bool:
    """Whether anything uses more than what an attention has mixed."""
    return any(name_of(user) != "getitem" or (user.args[1] != 0 and bool(user.users)) for user in attention.users)


def _by_head(graph: fx.GraphModule, attention: fx.Node) -> str:
    """Why no head may be missing: masks of single heads, or of padding, which torch's encoder cuts out where it has all heads."""
    mask, padding = given(attention, 5, "attn_mask", None), given(attention, 3, "key_padding_mask", None)
    if isinstance(mask, fx.Node) and len(tensor_shape(graph, mask)) == 3:
        return "a mask tells heads apart"
    return "tokens are hidden by a padding mask" if padding is not None else ""


def _group_of(space: Space) -> ChannelGroup:
    roles = dict.fromkeys(space.members)
    places = tuple(dict.fromkeys(place for _, place in roles))
    readers = tuple(place for role, place in roles if role == "reads")
    writers, passed = (tuple(dict.fromkeys(place.name for role, place in roles if role == wanted)) for wanted in ("makes", "passes"))
    return ChannelGroup(space.channels, places, readers, writers, passed, tuple(space.blocked), tuple(space.mixed), tuple(space.heard))
