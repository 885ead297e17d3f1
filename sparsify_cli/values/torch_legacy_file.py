"""Torch checkpoints as torch 0.1.10 to 1.5 saved them: five pickles one after the other, then the numbers of each storage.

The pickles are a magic number, the version of the protocol, facts on the machine, the content, and the keys of the storages
in the order in which their numbers follow: 8 bytes that say how many there are, then the numbers. Also what looks like it
and is not: a bare pickle, which is refused for what it is.

Source: torch 2.13, `torch/serialization.py` (`_legacy_save`, `_legacy_load`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.layout import Layout
from sparsify_cli.values.pickle_tree import Persistent, Reading, Tree, read_pickle
from sparsify_cli.values.torch_layout import layout_of, mapped, told
from sparsify_cli.values.torch_names import require_harmless
from sparsify_cli.values.torch_tensors import Contradiction, Extent, Storage, key_text, storage_of, tensor_reader

KIND = "torch-legacy"

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that the first pickle of such a file holds."""

PROTOCOL = 1001
"""The number that the second one holds."""

BINARY = re.compile(rb"\x80[\x01-\x05]", re.DOTALL)
TEXTUAL = re.compile(rb"c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\([dlcti](p\d|[A-Za-z_])|L\d+L\n")
"""First bytes of a pickle of protocol 2 and later, and of protocol 0."""


def is_pickle(path: Path) -> bool:
    """True for a file that begins like a pickle, of torch or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(128)
    return bool(BINARY.match(head) or TEXTUAL.match(head))


def legacy_layout(path: Path, *, trust: bool = False) -> Layout:
    """Where every tensor lies, from the pickles and the length of each storage; no storage is read.

    Args:
        path: of the file.
        trust: pickles that name code are read, still without running it.

    Raises:
        UnreadableFile: truncated, corrupt, contradictory, or a bare pickle.
        UnsafePickle: it names code and `trust` is False.
    """
    with told(path):
        reading, keys, end = _pickles(path, trust=trust)
        extents = _extents(path, keys, end, _storages(reading.persistent))
        resolve = tensor_reader(path.name, lambda storage: _extent(storage, extents))
        return layout_of(KIND, path, reading, resolve, trust=trust)


def legacy_tree(path: Path) -> Tree:
    """What the pickle with the content of such a file says.

    Raises:
        UnreadableFile: truncated, corrupt.
    """
    with told(path):
        return _pickles(path, trust=True)[0].tree


def _pickles(path: Path, *, trust: bool) -> tuple[Reading, Tree, int]:
    """The content, the keys of its storages, and where their numbers begin."""
    with mapped(path) as data:
        first = read_pickle(data)
        if not isinstance(first.tree, int) or first.tree != MAGIC:
            raise _bare(path, first, trust=trust)
        version = read_pickle(data, first.end)
        if version.tree != PROTOCOL:
            raise Contradiction("its protocol is not the one of torch")
        machine = read_pickle(data, version.end)
        if isinstance(machine.tree, dict) and machine.tree.get("little_endian") is False:
            raise UnreadableFile(f"{path} was saved on a big-endian machine.", "Its numbers have their bytes in the other order.")
        reading = read_pickle(data, machine.end)
        require_harmless(path, (*first.names, *version.names, *machine.names), None, trust=trust)
        require_harmless(path, reading.names, reading.tree, trust=trust)
        keys = read_pickle(data, reading.end)
        require_harmless(path, keys.names, None, trust=trust)
        return reading, keys.tree, keys.end


def _bare(path: Path, reading: Reading, *, trust: bool) -> Exception:
    """What is wrong with a pickle that torch.save did not write."""
    require_harmless(path, reading.names, reading.tree, trust=trust)
    return UnreadableFile(
        f"{path} is a plain pickle, not a checkpoint of torch.",
        "It was not written by torch.save, so its tensors do not lie in it as plain numbers.",
        "Load it in the program that made it, and write it with torch.save(model.state_dict(), ...).",
    )


def _storages(asked: tuple[Persistent, ...]) -> dict[str, Storage]:
    """Key -> what the pickle says about the storage the first time, which is what counts."""
    found: dict[str, Storage] = {}
    for one in asked:
        is_class = isinstance(one.id, tuple) and one.id[:1] in (("module",), (b"module",))
        if not is_class:
            storage = storage_of(one)
            found.setdefault(storage.key, storage)
    return found


def _extents(path: Path, keys: Tree, start: int, storages: Mapping[str, Storage]) -> dict[str, Extent]:
    """Key -> where its numbers lie, one storage after the other."""
    if not isinstance(keys, list) or len(keys) > len(storages):
        raise Contradiction("the list of its storages is none")
    found: dict[str, Extent] = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for key in map(key_text, keys):
            if key not in storages or key in found:
                raise Contradiction(f"its list of storages names {key!r} twice, or nothing else does")
            found[key] = _next(file, start, size, storages[key])
            start = found[key].offset + found[key].length
    return found


def _next(file: BinaryIO, start: int, size: int, storage: Storage) -> Extent:
    file.seek(start)
    numel = int.from_bytes(file.read(8), "little", signed=True)
    extent = Extent(start + 8, numel * storage.width)
    if numel < 0 or extent.offset + extent.length > size:
        raise Contradiction(f"the storage {storage.key!r} at byte {start} reaches past its end at byte {size}")
    if numel != storage.numel:
        raise Contradiction(f"the storage {storage.key!r} has {storage.numel} numbers in the pickle and {numel} behind it")
    return extent


def _extent(storage: Storage, extents: Mapping[str, Extent]) -> Extent:
    whole = extents.get(storage.key)
    if whole is None:
        raise Contradiction(f"the storage {storage.key!r} is not in the file")
    if storage.view is None:
        return whole
    start, length = (number * storage.width for number in storage.view)
    if start + length > whole.length:
        raise Contradiction(f"a view reaches past the {whole.length} bytes of the storage {storage.key!r}")
    return Extent(whole.offset + start, length)
