"""ONNX models: initializers in the file and in external data files, and what the graph says about them.

The file is one protocol buffer. It is walked through by its field headers: numbers lie in it as they are (`raw_data`,
packed `float_data` and `double_data`) or in a file beside it, and both can be changed in place. Numbers stored as varints
or one by one have no place and are reported as odd; so are initializers of the same name in several graphs. Constants
inside nodes are no initializers and stay what they are; files beside the model that only they need go along.

Source: onnx.proto3 (ModelProto, GraphProto, TensorProto) and docs/ExternalData.md of ONNX 1.19.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.layout import WIDTHS, Layout, Place
from sparsify_cli.values.onnx_graph import Node, Span, hints, message, read_node, sparse_parts
from sparsify_cli.values.onnx_seal import seal_check
from sparsify_cli.values.protobuf_wire import EIGHT, FOUR, LENGTH, LONGEST_TEXT, VARINT, Field, Malformed, Reader, mapped
from sparsify_cli.values.strict_json import shown

KIND = "onnx-model"
TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    24: "float8_e8m0fnu",
}
"""TensorProto.DataType -> torch's word."""
OTHER_TYPES = {8: "text", 21: "4-bit numbers", 22: "4-bit numbers", 23: "4-bit numbers", 25: "2-bit numbers", 26: "2-bit numbers"}

RAW, FLOATS, DOUBLES = 9, 4, 10
PACKED = {FLOATS: (FOUR, ("float32", "complex64")), DOUBLES: (EIGHT, ("float64", "complex128"))}
"""Repeated field -> wire type of one number when it is not packed, and the types it may hold."""
VARINTS = frozenset({5, 7, 11})
TOP = {
    1: VARINT,
    2: LENGTH,
    3: LENGTH,
    4: LENGTH,
    5: VARINT,
    6: LENGTH,
    7: LENGTH,
    8: LENGTH,
    14: LENGTH,
    20: LENGTH,
    25: LENGTH,
    26: LENGTH,
}
"""Fields of a ModelProto -> their wire type."""
MOST_TOP_FIELDS = 20_000
OTHERS_MAGIC = (b"PK\x03\x04", b"\x80", b"\x89HDF", b"GGUF", b"\x93NUMPY", b"version https://git-lfs")
MOST_DIMENSIONS = 64
MOST_OBJECTS = 400_000
"""Nodes and initializers of all graphs."""
AGAIN = "Copy it again from where it came, or export it again."


@dataclass(slots=True)
class _Tensor:
    """What a TensorProto says, as it is read."""

    start: int
    name: str = ""
    type: int = 0
    shape: tuple[int, ...] = ()
    external: bool = False
    beside: dict[str, str] = field(default_factory=dict)
    runs: dict[int, list[Field]] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """Path of its external file, as it is written."""
        return self.beside.get("location", "")


@dataclass
class _Found:
    """What is collected of all graphs; `further`: path of an external file -> the first tensor inside a node that lies there."""

    tensors: list[_Tensor] = field(default_factory=list)
    sparse: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    further: dict[str, _Tensor] = field(default_factory=dict)

    def require_few(self) -> None:
        """Refuse a file whose objects would fill the memory.

        Raises:
            Malformed: there are more of them than in any model.
        """
        if len(self.nodes) + len(self.tensors) + len(self.sparse) > MOST_OBJECTS:
            raise Malformed(f"it has more than {MOST_OBJECTS} nodes and initializers")


@dataclass(frozen=True)
class OnnxModel(Format):
    """ONNX models: initializers in the file or beside it."""

    def recognises(self, path: Path) -> bool:
        """True for `.onnx` files that do not begin as something else, and for any file whose top level is a ModelProto."""
        try:
            if not path.is_file():
                return False
            with path.open("rb") as file:
                head = file.read(32)
            if head.startswith(OTHERS_MAGIC) or head[8:9] == b"{":
                return False
            return path.suffix.lower() == ".onnx" or _is_model(path)
        except OSError:
            return False

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every initializer lies.

        Raises:
            UnreadableFile: truncated, corrupt, contradictory, or its external data are missing or outside its folder.
        """
        try:
            with mapped(path) as reader:
                return _layout(path, _read(reader))
        except (Malformed, OSError, ValueError, OverflowError) as error:
            raise UnreadableFile(f"{path} is no sound ONNX model.", f"{_sentence(error)}.", AGAIN) from error


def _sentence(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text[:1].upper() + text[1:]


def _is_model(path: Path) -> bool:
    """True when the top level has only fields of a ModelProto, its version and a graph among them, up to the last byte."""
    try:
        with mapped(path, MOST_TOP_FIELDS) as reader:
            found: set[int] = set()
            for part in reader.fields(0, reader.size):
                if TOP.get(part.number) != part.wire or (part.number == 1 and part.value > 1000):
                    return False
                found.add(part.number)
            return found >= {1, 7}
    except ValueError:
        return False


def _read(reader: Reader) -> _Found:
    """All graphs of the model, outermost first."""
    found, graphs, functions = _Found(), [], []
    for part in reader.fields(0, reader.size):
        if part.number == 7:
            graphs.append(part)
        elif part.number == 25:
            functions.append(part)
        elif part.number == 14 and part.wire == LENGTH and part.length <= LONGEST_TEXT:
            found.metadata.update([_entry(reader, part)])
    if not graphs:
        raise Malformed("it holds no graph")
    for graph in graphs:
        graphs += _read_graph(reader, graph, found)
    found.further |= _of_functions(reader, functions)
    return found


def _of_functions(reader: Reader, functions: list[Field]) -> dict[str, _Tensor]:
    """Path of an external file -> the first tensor inside a function of the model that lies there."""
    found = _Found()
    graphs = [graph for function in functions for graph in _read_graph(reader, function, found, nodes=7)]
    for graph in graphs:
        graphs += _read_graph(reader, graph, found)
    return found.further | {tensor.location: tensor for tensor in found.tensors if tensor.external}


def _read_graph(reader: Reader, graph: Field, found: _Found, nodes: int = 1) -> list[Field]:
    """Nodes, which are its field `nodes`, and initializers of one graph; returns the graphs inside its nodes."""
    inner: list[Field] = []
    for part in message(reader, graph):
        found.require_few()
        if part.number == nodes:
            node = read_node(reader, part)
            found.nodes.append(node)
            inner += [Field(7, LENGTH, 0, start, end) for start, end in node.graphs]
            _read_inside(reader, node.tensors, found)
        elif part.number == 5 and nodes == 1:
            found.tensors.append(_read_tensor(reader, part))
        elif part.number == 15 and nodes == 1:
            found.sparse += _read_inside(reader, sparse_parts(reader, part), found)[:1]
    return inner


def _read_inside(reader: Reader, spans: Sequence[Span], found: _Found) -> list[str]:
    """Names of tensors that are not whole initializers; the external files in which they lie are noted."""
    tensors = [_read_tensor(reader, Field(5, LENGTH, 0, start, end)) for start, end in spans]
    for tensor in tensors:
        if tensor.external:
            found.further.setdefault(tensor.location, tensor)
    return [tensor.name for tensor in tensors]


def _read_tensor(reader: Reader, place: Field) -> _Tensor:
    """A TensorProto; its numbers are only located."""
    tensor = _Tensor(place.start)
    for part in message(reader, place):
        if part.number == 1:
            tensor.shape = _dimensions(reader, part, tensor.shape)
        elif part.number == 8:
            tensor.name = reader.text(part)
        elif part.number == 13:
            tensor.beside.update([_entry(reader, part)])
        elif part.number in (2, 14):
            _read_number(part, tensor)
        elif part.number in (RAW, *PACKED, *VARINTS):
            tensor.runs.setdefault(part.number, []).append(part)
            del tensor.runs[part.number][2:]  # two are enough to see that they are not one run
    return tensor


def _read_number(part: Field, tensor: _Tensor) -> None:
    """The type of the numbers, or whether they lie in another file."""
    if part.wire != VARINT:
        raise Malformed(f"at byte {part.start} field {part.number} of a tensor holds no number")
    if part.number == 2:
        tensor.type = part.value
    else:
        tensor.external = part.value == 1


def _dimensions(reader: Reader, part: Field, before: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes so far and those of one more field."""
    shape = list(before)
    for size in reader.varints(part):
        shape.append(size)
        if size < 0 or len(shape) > MOST_DIMENSIONS:
            raise Malformed(f"at byte {part.start} a tensor has the size {size} in dimension {len(shape)}")
    return tuple(shape)


def _entry(reader: Reader, place: Field) -> tuple[str, str]:
    """A StringStringEntryProto: key and value."""
    texts = {part.number: reader.text(part) for part in message(reader, place) if part.number in (1, 2)}
    return texts.get(1, ""), texts.get(2, "")


def _layout(path: Path, found: _Found) -> Layout:
    counts = Counter([*(tensor.name for tensor in found.tensors), *found.sparse])
    table: dict[str, Place] = {}
    odd = dict.fromkeys(found.sparse, "stored sparse")
    for tensor in found.tensors:
        flaw = _oddity(tensor, counts[tensor.name])
        if flaw:
            odd[tensor.name or "(unnamed)"] = flaw
        else:
            table[tensor.name] = _place(path, tensor)
    _require_apart(table)
    files = dict.fromkeys([path.name, *(place.file for place in table.values())])
    further = found.further | {tensor.location: tensor for tensor in found.tensors if tensor.external}
    companions = dict.fromkeys(_beside(path, tensor) for tensor in further.values())
    along = tuple(name for name in companions if name not in files)
    said = hints(found.nodes, table)
    checks = seal_check(path)
    return Layout(KIND, path, path.parent, tuple(files), {(): table}, along, odd=odd, checks=checks, hints=said, metadata=found.metadata)


def _require_apart(table: Mapping[str, Place]) -> None:
    """Initializers share all of their bytes with another or none."""
    ordered = sorted(((place.file, place.offset, place.end), name) for name, place in table.items() if place.size)
    for (before, name), (after, other) in pairwise(ordered):
        if before[0] == after[0] and after[1] < before[2] and before != after:
            raise Malformed(f"{shown(name)} and {shown(other)} share a part of their bytes in {after[0]}")


def _oddity(tensor: _Tensor, count: int) -> str:
    """Why a tensor is not plain numbers in one place; nothing when it is."""
    if not tensor.name or count > 1:
        return f"{count} initializers have this name" if tensor.name else "has no name"
    if tensor.type not in TYPES:
        return f"holds {OTHER_TYPES.get(tensor.type, f'numbers of the unknown type {tensor.type}')}"
    if tensor.external:
        return "its file is under a SHA-1 checksum" if "checksum" in tensor.beside else ""
    if VARINTS & tensor.runs.keys():
        return "its numbers are stored as varints"
    return "its numbers are stored one by one or in pieces" if _in_pieces(tensor) else ""


def _in_pieces(tensor: _Tensor) -> bool:
    """True when packed numbers come in several fields, or each in its own."""
    runs = ((wire, tensor.runs.get(number, [])) for number, (wire, _) in PACKED.items())
    return any(len(parts) > 1 or any(part.wire == wire for part in parts) for wire, parts in runs)


def _place(path: Path, tensor: _Tensor) -> Place:
    """Where the numbers of one tensor lie.

    Raises:
        Malformed: shape, type and bytes contradict each other.
    """
    dtype = TYPES[tensor.type]
    size = math.prod(tensor.shape) * WIDTHS[dtype]
    if math.prod(n for n in tensor.shape if n) * WIDTHS[dtype] >= 2**63:
        raise Malformed(f"{shown(tensor.name)} claims the shape {list(tensor.shape)}")
    if tensor.external:
        return _outside(path, tensor, size)
    run = _run(tensor)
    if run is None and not size:
        return Place(path.name, tensor.start, dtype, tensor.shape)
    if run is None or run.length != size:
        held = run.length if run else 0
        raise Malformed(f"{shown(tensor.name)} of the shape {list(tensor.shape)}, {dtype}, takes {size} bytes and holds {held}")
    return Place(path.name, run.start, dtype, tensor.shape)


def _run(tensor: _Tensor) -> Field | None:
    """The bytes that hold all numbers; None when there are none."""
    runs = [(number, parts[-1]) for number, parts in tensor.runs.items() if parts[-1].length]
    if not runs:
        return None
    number, part = runs[0]
    allowed = PACKED[number][1] if number in PACKED else tuple(WIDTHS)
    if len(runs) > 1 or part.wire != LENGTH or TYPES[tensor.type] not in allowed:
        raise Malformed(f"{shown(tensor.name)}, {TYPES[tensor.type]}, holds its numbers in fields {', '.join(str(one) for one, _ in runs)}")
    return part


def _outside(path: Path, tensor: _Tensor, size: int) -> Place:
    """A place in a file beside the model."""
    file = _beside(path, tensor)
    held = (path.parent / file).stat().st_size
    offset = _number(tensor, "offset", 0)
    length = _number(tensor, "length", size)
    if offset + max(length, size) > held:
        raise Malformed(f"{shown(tensor.name)} ends at byte {offset + max(length, size)} of {file}, which has {held}")
    if length != size:
        raise Malformed(f"{shown(tensor.name)} of the shape {list(tensor.shape)} takes {size} bytes, and {length} are its own in {file}")
    return Place(file, offset, TYPES[tensor.type], tensor.shape)


def _beside(path: Path, tensor: _Tensor) -> str:
    """The external file of a tensor: a plain file under the model's folder, or where the model itself really lies."""
    said = tensor.location
    plain = PurePosixPath(said)
    if not plain.parts or plain.is_absolute() or ".." in plain.parts or "\\" in said or "\0" in said or PureWindowsPath(said).drive:
        raise Malformed(f"{shown(tensor.name)} lies in {shown(said)}, which is no path under the model's folder")
    real = (path.parent / plain).resolve()
    if not real.is_relative_to(path.parent.resolve()) and real.parent != path.resolve().parent:
        raise Malformed(f"{shown(tensor.name)} lies in {shown(said)}, which leads out of the model's folder")
    if not real.is_file():
        raise Malformed(f"{shown(tensor.name)} lies in {shown(said)}, and there is no such file beside the model")
    if real.samefile(path):
        raise Malformed(f"{shown(tensor.name)} claims to lie in the model's own file")
    return str(plain)


def _number(tensor: _Tensor, key: str, default: int) -> int:
    """An offset or length as external data write it."""
    text = tensor.beside.get(key, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Malformed(f"{shown(tensor.name)} has the {key} {text[:40]!r} in its external file")
    return int(text)
