"""Tables of named tensors in the pickle of a torch checkpoint: which mappings hold tensors, and where the tensors lie.

Training scripts put their weights anywhere: at the top, under `state_dict`, in a list with one mapping a stage, beside an
average of the weights, the state of the optimizer and their arguments. Every mapping with at least one tensor is a table
and is found; what else there is, is told in a few words.

Source: torch 2.13, `torch/_utils.py` (`_rebuild_*`), `torch/_tensor.py` (`_rebuild_from_type_v2`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sparsify_cli.values.layout import WIDTHS, Key, Place, row_major
from sparsify_cli.values.pickle_tree import Call, Name, Persistent, Tree
from sparsify_cli.values.torch_names import QUANTIZED, STORAGES, module_state

DEPTH_LIMIT = 32
"""Keys that lead to a table, and modules within modules."""

ENTRY_LIMIT = 3_000_000
"""Entries of all mappings and lists together; parts that are shared count each time."""

MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict")

ASIDE = re.compile(r"optimi[sz]er|scheduler|^opt_state|^scaler|^optims?(_|$)|_optims?$")
"""Keys whose tensors are no weights: the state of an optimizer and its like."""

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


@dataclass(frozen=True)
class Found:
    """Tables, other entries and odd tensors, as in a `Layout`."""

    tables: dict[Key, dict[str, Place]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)


def find(tree: Tree, resolve: Resolve) -> Found:
    """Every table of a checkpoint, in the order of the file.

    Raises:
        Contradiction: a tensor does not fit its storage, a key comes twice, or there is no end to it.
    """
    finder = _Finder(resolve)
    if not finder.enter(tree, ()) and not finder.found.others:
        finder.found.others[""] = summary(tree)
    return finder.found


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
    return "overlapping (its numbers share memory with each other)" if _overlaps(sizes, strides) else place


def entries_of(node: Tree) -> list[tuple[Tree, Tree]] | None:
    """Keys and values of a mapping; None for anything else."""
    if isinstance(node, dict):
        return list(node.items())
    if not isinstance(node, Call) or not (node.items or node.name in MAPPINGS):
        return None
    return [*_given(node), *node.items]


def summary(node: Tree) -> str:
    """What a value is, in a few words."""
    entries = entries_of(node)
    if entries is not None:
        return f"mapping of {len(entries)}"
    if isinstance(node, Call | Name):
        full = node.name if isinstance(node, Call) else node.text
        return full.rpartition(".")[2][:60] or "object"
    if isinstance(node, int) and not isinstance(node, bool) and abs(node) < 10**15:
        return f"int {node}"
    if isinstance(node, list | tuple | set | frozenset):
        return f"{type(node).__name__} of {len(node)}"
    return "storage" if isinstance(node, Persistent) else "nothing" if node is None else type(node).__name__


def key_text(key: Tree) -> str:
    """A key as text; empty when it is neither text nor a number."""
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key) if key.bit_length() <= 64 else ""
    return key if isinstance(key, str) else ""


def is_aside(key: str) -> bool:
    """True for the state of an optimizer and its like, whose tensors are no weights."""
    return ASIDE.search(key) is not None


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


class _Finder:
    """A walk through the tree that remembers where it is, where nothing was found, and how far it may still go."""

    def __init__(self, resolve: Resolve) -> None:
        self.resolve, self.found = resolve, Found()
        self.left = ENTRY_LIMIT
        self.barren: set[int] = set()
        self.above: set[int] = set()

    def enter(self, node: Tree, keys: Key) -> bool:
        """Look for tables in a node; True when there is one."""
        if id(node) in self.barren or id(node) in self.above or len(keys) > DEPTH_LIMIT:
            return False
        self.above.add(id(node))
        found = self._search(node, keys)
        self.above.discard(id(node))
        if not found:
            self.barren.add(id(node))
        return found

    def _search(self, node: Tree, keys: Key) -> bool:
        if module_state(node) is not None:
            return self._keep(keys, self._of_module(node, "", 0))
        entries = entries_of(node)
        if entries is not None:
            return self._search_mapping(entries, keys)
        return isinstance(node, list | tuple) and self._search_list(list(node), keys)

    def _search_mapping(self, entries: list[tuple[Tree, Tree]], keys: Key) -> bool:
        self._spend(len(entries))
        tensors = [(key, value) for key, value in entries if isinstance(key, str) and self.resolve(value) is not None]
        found = self._keep(keys, iter(tensors))
        others = {}
        for key, value in entries:
            text = key_text(key)
            if isinstance(key, str) and self.resolve(value) is not None:
                continue
            if text and not is_aside(text) and self.enter(value, (*keys, text)):
                found = True
            elif value is not None or not keys:
                others[".".join((*keys, text or "?"))] = "tensor" if self.resolve(value) is not None else summary(value)
        if found or not keys:
            self.found.others.update(others)
        return found

    def _search_list(self, values: list[Tree], keys: Key) -> bool:
        self._spend(len(values))
        direct: list[tuple[str, Tree]] = []
        found = False
        for index, value in enumerate(values):
            entries = entries_of(value) or ()
            mine = [(f"{index}.{key}", tensor) for key, tensor in entries if isinstance(key, str) and self.resolve(tensor) is not None]
            self._spend(len(entries))
            direct += mine
            found |= not mine and self.enter(value, (*keys, str(index)))
        return self._keep(keys, iter(direct)) or found

    def _of_module(self, node: Tree, prefix: str, depth: int) -> Iterator[tuple[str, Tree]]:
        """Names and tensors as `state_dict()` gives them: parameters, buffers that are kept, then modules within."""
        state = module_state(node)
        if state is None or depth > DEPTH_LIMIT:
            return
        leave = _members(state.get("_non_persistent_buffers_set"))
        for group in ("_parameters", "_buffers"):
            entries = entries_of(state[group]) or []
            self._spend(1 + len(entries))
            yield from ((prefix + str(key), value) for key, value in entries if isinstance(key, str) and key not in leave)
        for key, value in entries_of(state["_modules"]) or []:
            if isinstance(key, str):
                yield from self._of_module(value, f"{prefix}{key}.", depth + 1)

    def _keep(self, keys: Key, tensors: Iterator[tuple[str, Tree]]) -> bool:
        """Put tensors into a table; True when there was one, plain or odd."""
        table: dict[str, Place] = {}
        some = False
        for name, node in tensors:
            place = self.resolve(node)
            some |= place is not None
            if isinstance(place, Place):
                table[name] = place
            elif place is not None:
                self.found.odd[".".join((*keys, name))] = place
        if table and keys in self.found.tables:
            raise Contradiction(f"it holds two tables called {'.'.join(keys)!r}")
        if table:
            self.found.tables[keys] = table
        return some

    def _spend(self, entries: int) -> None:
        self.left -= entries
        if self.left < 0:
            raise Contradiction(f"it holds more than {ENTRY_LIMIT} entries, counting shared ones each time")


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


def _given(node: Call) -> Iterator[tuple[Tree, Tree]]:
    """The pairs that an ordered dictionary of Python 2 is made from."""
    pairs = node.args[0] if node.args and node.name == MAPPINGS[0] else None
    if isinstance(pairs, list | tuple):
        yield from ((pair[0], pair[1]) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2)


def _members(node: Tree) -> frozenset[str]:
    """The texts of a set, however a pickle makes it."""
    values = node.args[0] if isinstance(node, Call) and node.args else node
    return frozenset(value for value in values if isinstance(value, str)) if isinstance(values, list | set | frozenset) else frozenset()


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
