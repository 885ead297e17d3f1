"""Tensors and storages in the pickle of a torch checkpoint: what is a tensor, and where its numbers lie.

Source: torch 2.13, `torch/_utils.py` (`_rebuild_*`), `torch/_tensor.py` (`_rebuild_from_type_v2`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sparsify_cli.values.layout import WIDTHS, Place, row_major
from sparsify_cli.values.pickle_tree import Call, Name, Persistent, Tree
from sparsify_cli.values.torch_names import QUANTIZED, STORAGES

REBUILD = {"torch._utils._rebuild_tensor": 4, "torch._utils._rebuild_tensor_v2": 6, "torch._utils._rebuild_tensor_v3": 7}
"""What makes a plain tensor -> how many arguments it takes at least."""

METADATA = {"torch._utils._rebuild_tensor_v2": 6, "torch._utils._rebuild_tensor_v3": 7}
"""The same -> which argument says that its numbers are to be negated or conjugated."""

AROUND = (
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter"),
    *("torch.nn.parameter.Buffer", "torch.autograd.variable.Variable"),
)
"""What takes a tensor as its first argument and is one."""

RETYPED = ("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type")
"""What makes a tensor from a function, a class, and the function's arguments."""

ODD = {
    "torch._utils._rebuild_sparse_tensor": "stored sparse",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_meta_tensor_no_storage": "empty (on the meta device)",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch.nested._internal.nested_tensor._rebuild_njt": "nested",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass around others",
    "torch._utils._rebuild_device_tensor_from_numpy": "stored as an array",
    "torch._utils._rebuild_xla_tensor": "stored as an array",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a copy from another device",
}
"""What makes a tensor that is no plain run of numbers -> what that is."""


class Contradiction(ValueError):
    """What contradicts what in a checkpoint, as part of a sentence."""


class Repeated(str):
    """Why a tensor is an odd one whose numbers stand for several of its elements, and where they lie."""

    place: Place

    def __new__(cls, place: Place) -> Repeated:
        """The reason, as text."""
        made = super().__new__(cls, "overlapping (its numbers share memory with each other)")
        made.place = place
        return made


@dataclass(frozen=True)
class Extent:
    """Where the numbers of a storage lie in a file: first byte and bytes; `why` they are not there as they are, if so."""

    offset: int
    length: int
    why: str = ""


@dataclass(frozen=True)
class Storage:
    """What a pickle says about a storage that it asks for.

    Args:
        key: its name in the file.
        dtype: torch's word for its numbers; of quantized ones, torch's word for the storage.
        width: bytes a number.
        numel: how many.
        location: the device it was on.
        view: start and length in numbers, when it is a part of the storage `key`.
    """

    key: str
    dtype: str
    width: int
    numel: int
    location: str = "cpu"
    view: tuple[int, int] | None = None


Resolve = Callable[[Tree], "Place | str | None"]
"""A node -> its place when it is a plain tensor, what it is when it is an odd one, None when it is no tensor."""


def storage_of(asked: Persistent) -> Storage:
    """What an identifier of a storage says.

    Raises:
        Contradiction: it is none.
    """
    said = asked.id
    if not isinstance(said, tuple) or len(said) not in (5, 6) or said[0] not in ("storage", b"storage"):
        raise Contradiction("it asks for something that is no storage")
    _, kind, key, location, numel, *view = said
    word = kind.text.rpartition(".")[2].removesuffix("Storage").lstrip("_") if isinstance(kind, Name) else ""
    dtype = STORAGES.get(word, word)
    width = WIDTHS.get(dtype) or QUANTIZED.get(word)
    if width is None or not isinstance(key, str | int) or isinstance(key, bool) or not is_count(numel):
        raise Contradiction(f"a storage of the type {word or '?'!r} is not understood")
    place = location.decode("ascii", "replace") if isinstance(location, bytes) else location
    return Storage(key_text(key), dtype, width, numel, place if isinstance(place, str) else "cpu", _view(view))


def tensor_reader(file: str, extent: Callable[[Storage], Extent]) -> Resolve:
    """What tells tensors from other nodes of a pickle.

    Args:
        file: name of the file that storages lie in, relative to the layout's root.
        extent: where a storage lies in it; raises `Contradiction` when it is not there.
    """

    def resolve(node: Tree) -> Place | str | None:
        node = bare(node)
        name = node.name if isinstance(node, Call) else ""
        if name in REBUILD and len(node.args) >= REBUILD[name] and isinstance(node.args[0], Persistent):
            return _tensor(file, node, storage_of(node.args[0]), extent)
        return ODD.get(name)

    return resolve


def bare(node: Tree) -> Tree:
    """A tensor without what is around it: parameter, variable, class of its own."""
    for _ in range(8):
        name = node.name if isinstance(node, Call) else ""
        if name in AROUND and node.args:
            node = node.args[0]
        elif name in RETYPED and len(node.args) >= 3 and isinstance(node.args[2], tuple):
            node = Call(node.args[0], node.args[2])
        else:
            break
    return node


def place_of(file: str, extent: Extent, dtype: str, start: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Place | str:
    """The place of a tensor in a storage, or why it is an odd one.

    Args:
        file: name of the file.
        extent: of the storage.
        dtype: torch's word for its numbers.
        start: first number of the tensor in the storage.
        sizes: of the tensor.
        strides: in numbers.

    Raises:
        Contradiction: it reaches out of the storage.
    """
    if extent.why or dtype not in WIDTHS:
        return extent.why or (f"of the type {dtype}" if dtype not in QUANTIZED else "quantized")
    if len(sizes) != len(strides) or len(sizes) > 64 or math.prod(sizes) >= 1 << 62:
        raise Contradiction(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    plain = () if _is_row_major(sizes, strides) else strides
    skipped = 0 if 0 in sizes else start * WIDTHS[dtype]
    place = Place(file, extent.offset + skipped, dtype, sizes, plain)
    if place.end > extent.offset + extent.length:
        raise Contradiction(f"a tensor of the sizes {list(sizes)} reaches past the {extent.length} bytes of its storage")
    return Repeated(place) if _overlaps(sizes, strides) else place


def key_text(key: Tree) -> str:
    """A key as text; empty when it is neither text nor a number."""
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key) if key.bit_length() <= 64 else ""
    return key if isinstance(key, str) else ""


def is_count(value: object) -> bool:
    """True for a size, an offset, a stride: a number from 0 that fits 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def counts(node: Tree) -> tuple[int, ...]:
    """Sizes or strides.

    Raises:
        Contradiction: not a tuple of numbers from 0.
    """
    values = node.args[0] if isinstance(node, Call) and node.name == "torch.Size" and node.args else node
    if isinstance(values, tuple | list) and all(is_count(value) for value in values):
        return tuple(values)
    raise Contradiction("the sizes or strides of a tensor are not numbers from 0")


def _tensor(file: str, node: Call, storage: Storage, extent: Callable[[Storage], Extent]) -> Place | str:
    _, start, sizes, strides = node.args[:4]
    if not is_count(start):
        raise Contradiction("a tensor begins nowhere in its storage")
    at = METADATA.get(node.name, len(node.args))
    if at < len(node.args) and node.args[at]:
        return "stored negated or conjugated"
    typed = node.args[6] if node.name.endswith("_v3") else None
    dtype = typed.text.removeprefix("torch.") if isinstance(typed, Name) else storage.dtype
    where = Extent(0, 0, "empty (on the meta device)") if storage.location == "meta" else extent(storage)
    return place_of(file, where, dtype, start, counts(sizes), counts(strides))


def _view(said: list[Tree]) -> tuple[int, int] | None:
    """Start and length of a view on a storage, as torch before 0.4 saved them."""
    if not said or said[0] is None:
        return None
    view = said[0]
    if not isinstance(view, tuple) or len(view) != 3 or not (is_count(view[1]) and is_count(view[2])):
        raise Contradiction("the view of a storage is not understood")
    return view[1], view[2]


def _is_row_major(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return 0 in sizes or all(n == 1 or s == r for n, s, r in zip(sizes, strides, row_major(sizes), strict=True))


def _overlaps(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """True when two elements may lie in the same memory: some step is no longer than what lies below it."""
    reach = 0
    for stride, size in sorted((stride, size) for size, stride in zip(sizes, strides, strict=True) if size > 1):
        if stride <= reach:
            return 0 not in sizes
        reach += stride * (size - 1)
    return False
