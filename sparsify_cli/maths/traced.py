"""A network traced by torch.fx, with the shape of every tensor in it, and what its nodes are called."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from sparsify_cli.maths.fewer_heads import FewerHeads
from sparsify_cli.maths.plain_transformer import spelled
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.copies import copy_of


class _Tracer(fx.Tracer):
    """Goes into everything but torch's own layers, and attention."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FewerHeads) or super().is_leaf_module(m, module_qualified_name)


class Untraceable(Exception):
    """A network that torch.fx cannot follow; the text says why."""


def traced(module: nn.Module, inputs: Tensor) -> tuple[fx.GraphModule, nn.Module]:
    """A network in eval mode as a graph, and the copy of it whose layers the graph calls.

    Args:
        module: left as it was.
        inputs: [n, ...] samples; one pass tells the shapes.

    Raises:
        Untraceable: its code does what cannot be followed.
    """
    copy = spelled(copy_of(module).eval())
    try:
        graph = fx.GraphModule(copy, _Tracer().trace(copy))
        with torch.no_grad():
            ShapeProp(graph).propagate(as_taken_by(copy, inputs))
    except Exception as error:  # tracing runs the network's own code on stand-ins, which may fail in any way
        first = (str(error).strip().splitlines() or [""])[0]
        raise Untraceable(f"torch.fx cannot trace the network ({type(error).__name__}: {first})") from error
    return graph, copy


def name_of(node: fx.Node) -> str:
    """What a node calls: `add`, `relu`, or the path of a layer."""
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def mixed_name(node: fx.Node) -> str:
    """How the values that an attention has mixed are called, which `out_proj` reads."""
    return f"{node.name}.out_proj"


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor; () when it is no tensor."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def tensor_shape(module: nn.Module, node: fx.Node) -> tuple[int, ...]:
    """The same, also for a parameter that the code uses by itself."""
    return tuple(attribute(module, str(node.target)).shape) if node.op == "get_attr" else shape_of(node)


def given(node: fx.Node, at: int, name: str, default: Any) -> Any:
    """An argument of a call, by place or by name."""
    return node.args[at] if len(node.args) > at else node.kwargs.get(name, default)


def attribute(module: nn.Module, path: str) -> Any:
    """What a dotted path leads to."""
    return operator.attrgetter(path)(module)
