"""Tables of named tensors in the pickle of a torch checkpoint: which mappings hold tensors.

Training scripts put their weights anywhere: at the top, under `state_dict`, in a list with one mapping a stage, beside an
average of the weights, the state of the optimizer and their arguments. Every mapping with at least one tensor is a table
and is found; what else there is, is told in a few words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sparsify_cli.values.layout import Key, Place
from sparsify_cli.values.pickle_tree import Call, Name, Persistent, Tree
from sparsify_cli.values.torch_names import module_state
from sparsify_cli.values.torch_tensors import (
    Contradiction,
    Extent,
    Resolve,
    Storage,
    is_count,
    key_text,
    place_of,
    storage_of,
    tensor_reader,
)

__all__ = [
    "Contradiction",
    "Extent",
    "Found",
    "Resolve",
    "Storage",
    "entries_of",
    "find",
    "is_count",
    "key_text",
    "place_of",
    "storage_of",
    "summary",
    "tensor_reader",
]

DEPTH_LIMIT = 32
"""Keys that lead to a table, and modules within modules."""

ENTRY_LIMIT = 5_000_000
"""Entries of all mappings and lists together; parts that are shared count each time."""

CONTAINER = 50
"""Entries that a mapping or list counts for, beside its own: it takes as long to look into."""

MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict")

ASIDE = re.compile(r"optimi[sz]er|scheduler|^opt_state|^scaler|^optims?(_|$)|_optims?$")
"""Keys whose tensors are no weights: the state of an optimizer and its like."""


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


def is_aside(key: str) -> bool:
    """True for the state of an optimizer and its like, whose tensors are no weights."""
    return ASIDE.search(key) is not None


class _Finder:
    """A walk through the tree that remembers where it is, where nothing was found, and how far it may still go."""

    def __init__(self, resolve: Resolve) -> None:
        self.read, self.found = resolve, Found()
        self.left = ENTRY_LIMIT
        self.known: dict[int, Place | str | None] = {}
        self.barren: set[int] = set()
        self.above: set[int] = set()

    def resolve(self, node: Tree) -> Place | str | None:
        """What a node is as a tensor, found out once."""
        if not isinstance(node, Call | Persistent):
            return None
        if id(node) not in self.known:
            self.known[id(node)] = self.read(node)
        return self.known[id(node)]

    def enter(self, node: Tree, keys: Key) -> bool:
        """Look for tables in a node; True when there is one."""
        is_leaf = not isinstance(node, dict | list | tuple | Call)
        if is_leaf or id(node) in self.barren or id(node) in self.above or len(keys) > DEPTH_LIMIT:
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
            self._spend(len(entries))
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
        self.left -= entries + CONTAINER
        if self.left < 0:
            raise Contradiction(f"it holds more than {ENTRY_LIMIT} entries, counting shared ones each time")


def _given(node: Call) -> Iterator[tuple[Tree, Tree]]:
    """The pairs that an ordered dictionary of Python 2 is made from."""
    pairs = node.args[0] if node.args and node.name == MAPPINGS[0] else None
    if isinstance(pairs, list | tuple):
        yield from ((pair[0], pair[1]) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2)


def _members(node: Tree) -> frozenset[str]:
    """The texts of a set, however a pickle makes it."""
    values = node.args[0] if isinstance(node, Call) and node.args else node
    return frozenset(value for value in values if isinstance(value, str)) if isinstance(values, list | set | frozenset) else frozenset()
