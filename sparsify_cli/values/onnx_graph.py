"""What the nodes of an ONNX graph say about its weights: which operator takes them, and in which orientation.

A weight that reaches its operator through Transpose, Identity, Cast or (de)quantization is followed there, a few nodes
far. Operators that take a weight name it by themselves (`Conv`); any other operator, and any other input of those, is
named too (`Add`, `Gemm input 2`), so that nobody takes a bias or a table for a weight.

Source: ONNX operator specification (opset 1 to 25), onnx.proto3: NodeProto, AttributeProto.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sparsify_cli.values.layout import Hint
from sparsify_cli.values.protobuf_wire import LENGTH, Field, Malformed, Reader

WEIGHTS = {
    **{(operator, 1): False for operator in ("Conv", "LSTM", "GRU", "RNN")},
    **{(operator, 2): False for operator in ("LSTM", "GRU", "RNN")},
    ("ConvTranspose", 1): True,
    ("Gemm", 0): False,
    ("Gemm", 1): True,
    ("MatMul", 0): False,
    ("MatMul", 1): True,
    ("Gather", 0): False,
}
"""Operator and number of the input that is its weight -> whether it lies there as [in, out]."""

TURNS = {("Gemm", 0): "transA", ("Gemm", 1): "transB"}
"""Where an attribute that is not 0 turns the orientation around."""

PASSING = frozenset({"Transpose", "Identity", "Cast", "QuantizeLinear", "DequantizeLinear"})
"""Operators whose first input is the same weight as their output."""

OPERATORS = frozenset({word for word, _ in WEIGHTS})
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
READ = frozenset({"perm", "transA", "transB", "group"})
HOPS = 4
MOST_VISITS = 100
"""Consumers of one weight that are looked at."""
MOST_NUMBERS = 64
"""Numbers of an attribute that are read: as many as a tensor has dimensions."""


Span = tuple[int, int]
"""First byte of a message, and the first behind it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Args:
        operator: its name; empty for an operator of a domain that is not known, as functions of the model are.
        inputs, outputs: names of values; an empty one is left out.
        settings: attributes that orient a weight, and its groups.
        graphs: where the graphs inside it lie.
        tensors: where the tensors inside it lie, such as the value of a Constant.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    graphs: tuple[Span, ...] = ()
    tensors: tuple[Span, ...] = ()


def read_node(reader: Reader, place: Field) -> Node:
    """The NodeProto in a field.

    Raises:
        Malformed: it is damaged.
    """
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [""], 7: [""]}
    settings: dict[str, tuple[int, ...]] = {}
    inside: tuple[list[Span], list[Span]] = ([], [])
    for part in message(reader, place):
        if part.number in texts:
            texts[part.number].append(reader.text(part))
        elif part.number == 5:
            _read_attribute(reader, part, settings, *inside)
    operator = texts[4][-1] if texts[7][-1] in KNOWN_DOMAINS else ""
    return Node(operator, tuple(texts[1]), tuple(texts[2]), settings, tuple(inside[0]), tuple(inside[1]))


def message(reader: Reader, place: Field) -> Iterator[Field]:
    """The fields of the message inside a field.

    Raises:
        Malformed: the field holds no message, or a damaged one.
    """
    if place.wire != LENGTH:
        raise Malformed(f"at byte {place.start} field {place.number} should hold a message")
    return reader.fields(place.start, place.end)


def _read_attribute(reader: Reader, place: Field, settings: dict[str, tuple[int, ...]], graphs: list[Span], tensors: list[Span]) -> None:
    """Integers of the attributes that matter, and graphs and tensors of any."""
    name = ""
    numbers: list[Field] = []
    for part in message(reader, place):
        if part.number == 1:
            name = reader.text(part)
        elif part.number in (6, 11):
            graphs.append(_span(part))
        elif part.number in (5, 10):
            tensors.append(_span(part))
        elif part.number in (22, 23):
            tensors += sparse_parts(reader, part)
        elif part.number in (3, 8) and len(numbers) < MOST_NUMBERS:
            numbers.append(part)
    if name in READ:
        settings[name] = tuple(islice((value for part in numbers for value in reader.varints(part)), MOST_NUMBERS))


def _span(part: Field) -> Span:
    if part.wire != LENGTH:
        raise Malformed(f"at byte {part.start} field {part.number} should hold a graph or a tensor")
    return part.start, part.end


def sparse_parts(reader: Reader, place: Field) -> list[Span]:
    """Where the tensors of a SparseTensorProto lie: its values and their indices.

    Raises:
        Malformed: it is damaged.
    """
    parts = [part for part in message(reader, place) if part.number in (1, 2)]
    return [_span(part) for part in sorted(parts, key=lambda part: part.number)]


def hints(nodes: Sequence[Node], names: Iterable[str]) -> dict[str, Hint]:
    """What the operators that take them say about tensors; those that nobody known takes are left out.

    Args:
        nodes: of all graphs of the model, outermost first.
        names: of the tensors.
    """
    takers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
    for node in nodes:
        for position, name in enumerate(node.inputs):
            if len(takers[name]) < MOST_VISITS:
                takers[name].append((node, position))
    found = ((name, list(_reached(name, takers))) for name in names)
    return {name: _best(said) for name, said in found if said}


def _best(said: Sequence[Hint]) -> Hint:
    """The first that takes a weight, otherwise the first."""
    return next((hint for hint in said if hint.operator in OPERATORS), said[0])


def _reached(name: str, takers: Mapping[str, Sequence[tuple[Node, int]]]) -> Iterator[Hint]:
    """Hints of the operators that a tensor reaches, directly ones first; a passing one counts when nothing lies behind it."""
    waiting, visits = [(name, False, 0)], 0
    for value, turned, hops in waiting:
        for node, position in takers.get(value, ()):
            visits += 1
            if visits > MOST_VISITS:
                return
            behind = _behind(node, position, turned) if hops < HOPS else None
            if behind is not None and behind[0] in takers:
                waiting.append((*behind, hops + 1))
            elif node.operator:
                yield _hint(node, position, turned)


def _behind(node: Node, position: int, turned: bool) -> tuple[str, bool] | None:
    """The value that is the same weight behind a passing node, and whether it is turned there."""
    if position or not node.outputs or node.operator not in PASSING:
        return None
    if node.operator != "Transpose":
        return node.outputs[0], turned
    order = node.settings.get("perm", (1, 0))
    return (node.outputs[0], turned ^ (order == (1, 0))) if order in ((1, 0), (0, 1)) else None


def _hint(node: Node, position: int, turned: bool) -> Hint:
    """What one operator says about what it takes."""
    transposed = WEIGHTS.get((node.operator, position))
    if transposed is None:
        return Hint(f"{node.operator} input {position}" if node.operator in OPERATORS else node.operator)
    switch = TURNS.get((node.operator, position), "")
    groups, *_ = (*node.settings.get("group", ()), 1)
    return Hint(node.operator, transposed ^ turned ^ any(node.settings.get(switch, ())), max(1, groups))
