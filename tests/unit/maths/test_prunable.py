"""What is prunable by name, type and shape."""

from __future__ import annotations

import pytest

from sparsify_cli.maths.prunable import verdict, verdicts
from sparsify_cli.values.layout import Hint


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "why"),
    [
        ("fc.weight", "float32", (3, 4), ""),
        ("fc.weight", "float8_e4m3fn", (3, 4), ""),
        ("conv.weight", "bfloat16", (8, 4, 3, 3), ""),
        ("fc.bias", "float32", (4,), "not a matrix"),
        ("steps", "int64", (3, 4), "not of a floating type"),
        ("scale", "float8_e8m0fnu", (3, 4), "of a type without order"),
        ("fc.weight", "float32", (0, 4), "empty"),
        ("cls.scale", "float32", (1, 8, 1), "a vector"),
        ("model.embed_tokens.weight", "float32", (30, 4), "named like no weight"),
        ("layer_norm.weight", "float32", (3, 4), "named like no weight"),
    ],
)
def test_one_tensor(name, dtype, shape, why):
    """Matrices of floats are, unless their names say otherwise; every other one has its reason."""
    assert verdict(name, dtype, shape) == ((False, why) if why else (True, "looks like a weight"))


def test_a_graph_knows_better():
    """What takes a tensor decides before its name does, but not before its shape."""
    assert verdict("embed", "float32", (3, 4), Hint("MatMul")) == (True, "MatMul weight")
    assert verdict("w", "float32", (3, 4), Hint("Gather")) == (False, "used by Gather")
    assert not verdict("w", "float32", (3,), Hint("MatMul")).matched


def test_tied_tensors():
    """The second name is never pruned; the first neither when the second is an embedding."""
    matrix = ("float32", (30, 4))
    found = verdicts({"head.weight": matrix, "wte.weight": matrix, "a": matrix, "b": matrix}, {"wte.weight": "head.weight", "b": "a"}, {})
    assert {name: one.matched for name, one in found.items()} == {"head.weight": False, "wte.weight": False, "a": True, "b": False}
    assert found["head.weight"].why == "tied to wte.weight" and found["b"].why == "tied to a"
