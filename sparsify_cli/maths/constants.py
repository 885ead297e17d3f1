"""What the layers of a network read that is the same whatever the network is given.

The traced network is run once in float64 with NaN for its input: what is a number behind it is a constant. A convolution or
linear layer makes a constant wherever every weight that meets an unknown number is zero; NaN passes everything else. An
operation that is not known to pass it makes everything unknown.

Source: constant propagation, Kildall 1973; ours for tensors, number by number, so that borders of padded layers are seen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsify_cli.maths.channel_spaces import (
    BATCH_NORMS,
    CONCATENATIONS,
    CONVOLUTIONS,
    DIVISIONS,
    ELEMENTWISE,
    JOINS,
    POOLING,
    POOLS,
    SAME,
    SIZES,
    TRANSPOSED,
)
from sparsify_cli.maths.fewer_heads import is_followed
from sparsify_cli.maths.traced import given, mixed_name, name_of, shape_of, traced

MOVES = CONCATENATIONS | DIVISIONS | {"flatten", "view", "reshape", "mean", "permute", "transpose", "pad", "getitem"}
"""Functions that move numbers or average them."""
PRODUCTS = frozenset({"mul", "mul_", "imul"})
PASSING = (*BATCH_NORMS, *ELEMENTWISE, *POOLS, nn.LayerNorm, nn.PReLU, nn.Flatten)
"""Layers whose outputs are unknown where their inputs are."""


@torch.no_grad()
def constant_inputs(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What each call of a layer reads: its first input, NaN where that depends on the network's input.

    Args:
        module: left as it was.
        inputs: [n, ...] samples, for their shape.

    Returns:
        Name of the call in the traced network -> float64.

    Raises:
        Untraceable: the network cannot be followed.
    """
    graph, _ = traced(module, inputs)
    run = _Constants(graph.double())
    run.run(inputs)
    return run.read


class _Constants(fx.Interpreter):
    """A run with NaN for everything that is not known."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.read: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        """The value of a node, unknown where nothing is known."""
        if node.op in ("get_attr", "output"):
            return super().run_node(node)
        try:
            found = self._value(node) if node.op != "placeholder" else None
        except Exception:  # whatever an operation says about inputs that stand for others
            found = None
        if isinstance(found, Tensor):
            return found.double().masked_fill_(found.isinf(), math.nan) if found.dtype != torch.bool else _unknown(node)
        return _unknown(node) if found is None else found

    def _value(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if node.op == "call_module":
            layer = self.fetch_attr(str(node.target))
            if isinstance(layer, nn.MultiheadAttention) and is_followed(layer):
                return self._attention(node, layer, args, kwargs)
            return self._layer(node, layer, args[0])
        name = name_of(node)
        if name in SIZES and not shape_of(node):
            return super().run_node(node)
        if name not in (SAME | JOINS | POOLING | MOVES):
            return _forgotten(args) if name.endswith("_") else None
        tensors = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
        hidden, nothing = [tensor.isnan() for tensor in tensors], [tensor == 0 for tensor in tensors]
        found = super().run_node(node)
        if name in SAME | JOINS and isinstance(found, Tensor):
            for where in hidden:
                found = found.masked_fill(where, math.nan)
        for where in nothing if name in PRODUCTS else ():
            found = found.masked_fill(where, 0.0)  # zero times anything
        return found

    def _layer(self, node: fx.Node, layer: nn.Module, read: Tensor) -> Tensor | None:
        if not type(layer).__module__.startswith("torch.nn"):
            return None
        if isinstance(layer, nn.Embedding):
            return _embedded(layer, shape_of(node))
        self.read[node.name] = read.clone()
        if isinstance(layer, nn.Linear):
            return _multiplied(read, layer.weight, layer.bias)
        if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
            return _weighed(layer, read)
        if not isinstance(layer, PASSING):
            return None
        hidden = read.isnan()
        found: Tensor = layer(read)
        return found.masked_fill(hidden, math.nan) if found.shape == hidden.shape else found

    def _attention(self, node: fx.Node, layer: nn.MultiheadAttention, args: Any, kwargs: Any) -> tuple[Tensor, None]:
        """Whatever the shares are, they sum to one: a value that is the same for every token stays what it is.

        Where a mask hides all tokens there are no shares, and the outputs are zero or nothing: then only zero stays zero.
        """
        query, value = args[0], args[2] if len(args) > 2 else kwargs["value"]
        masked = any(mask is not None for mask in (given(node, 3, "key_padding_mask", None), given(node, 5, "attn_mask", None)))
        bias = None if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)[2]
        values = _multiplied(value, layer.in_proj_weight.chunk(3)[2], bias).flatten(0, -2)
        same = values[0].masked_fill((values != values[0]).any(0), math.nan)
        same = same.masked_fill(same != 0, math.nan) if masked else same
        self.read[mixed_name(node)] = mixed = same.expand(*query.shape[:-1], -1).clone()
        return _multiplied(mixed, layer.out_proj.weight, layer.out_proj.bias), None


def _forgotten(changed: Any) -> None:
    """Tensors that were changed in place in an unknown way."""
    for tensor in changed:
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            tensor.fill_(math.nan)


def _unknown(node: fx.Node) -> Tensor | None:
    """NaN in the shape of a node; None for what is no tensor."""
    shape = shape_of(node)
    return torch.full(shape, math.nan, dtype=torch.float64) if shape or node.meta.get("tensor_meta") is not None else None


def _weighed(layer: Any, given: Tensor) -> Tensor:
    """Outputs of a convolution; unknown where a weight that is not zero meets an unknown number."""
    hidden, used = given.isnan(), {"weight": (layer.weight != 0).double()}
    nothing = {} if layer.bias is None else {"bias": torch.zeros_like(layer.bias)}
    known: Tensor = layer(given.masked_fill(hidden, 0.0))
    reached: Tensor = torch.func.functional_call(layer, used | nothing, (hidden.double(),))
    return known.masked_fill(reached > 0.5, math.nan)


def _multiplied(given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs of a linear layer, unknown likewise."""
    hidden = given.isnan()
    known: Tensor = nn.functional.linear(given.masked_fill(hidden, 0.0), weight, bias)
    reached: Tensor = nn.functional.linear(hidden.double(), (weight != 0).double())
    return known.masked_fill(reached > 0.5, math.nan)


def _embedded(layer: nn.Embedding, shape: tuple[int, ...]) -> Tensor | None:
    """Outputs of an embedding: known where a column is the same for every word."""
    first = layer.weight[0]
    same = (layer.weight == first).all(0)
    return None if layer.max_norm is not None else torch.where(same, first, math.nan).expand(shape).clone()
