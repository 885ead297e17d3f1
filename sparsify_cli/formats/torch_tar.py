"""Torch checkpoints as torch before 0.1.10 saved them: a tar archive of `sys_info`, `storages`, `tensors` and `pickle`.

`storages` holds a pickled count, then for each storage a pickle (key, device, type) and its numbers behind 8 bytes that say
how many there are, then a pickled list of views (key, key of the whole, start, length). `tensors` holds a count, then for
each tensor a pickle (key, key of the storage, type), 8 bytes with the number of axes, sizes, strides and start, 8 bytes
each. `pickle` holds the content, in which tensors are asked for by their keys. Torch itself reads these files only as code.

Source: torch 2.13, `torch/serialization.py` (`legacy_load` in `_legacy_load`).
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import Infeasible
from sparsify_cli.values.layout import Key, Layout, Place
from sparsify_cli.values.pickle_steps import Stream
from sparsify_cli.values.pickle_tree import Name, NotAPickle, Persistent, Reading, Tree, read_pickle
from sparsify_cli.values.torch_layout import layout_of, mapped, told
from sparsify_cli.values.torch_names import require_harmless
from sparsify_cli.values.torch_tensors import Contradiction, Extent, Resolve, Storage, bare, is_count, place_of, storage_of

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("storages", "tensors", "pickle")
"""Members that are read."""

MEMBER_LIMIT = 8
"""Members that are looked at."""

PICKLE_LIMIT = 1 << 28
"""Bytes of the pickle."""


@dataclass(frozen=True)
class TorchTar(Format):
    """A torch checkpoint in a tar archive."""

    def recognises(self, path: Path) -> bool:
        """True for a tar archive with these members."""
        try:
            return path.is_file() and set(PARTS) <= _members(path).keys()
        except (tarfile.TarError, OSError, ValueError, LookupError, RecursionError):
            return False

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies, from the pickles and the length of each storage; no storage is read."""
        with told(path):
            names, resolve, reading = _read(path, trust=trust)
            whole = Reading(reading.tree, reading.end, (*names, *reading.names), reading.persistent)
            return layout_of("torch-tar", path, whole, resolve, trust=trust)

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Save the table alone as torch 0.1.10 to 1.5 did: torch writes no tar archives any more, and every torch reads those."""
        from sparsify_cli.values import torch_rebuild

        if others and (layout.others or layout.odd or len(layout.tables) > 1):
            kept = ", ".join([*layout.others, *layout.odd, *(".".join(keys) for keys in layout.tables if keys != table)][:4])
            raise Infeasible(
                f"{layout.path} cannot be written anew with everything that is in it.",
                f"Names or shapes of its tensors changed, and torch no longer writes tar archives; it holds {kept} too.",
                torch_rebuild.DROP,
            )
        with told(layout.path):
            _, _, reading = _read(layout.path, trust=True)
        whole = torch_rebuild.rebuilt(layout, reading.tree, table, tensors, others=False)
        torch_rebuild.save(folder / layout.files[0], whole, zipped=False)


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and end of the first few plain files in a tar archive."""
    found: dict[str, tuple[int, int]] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(262)[257:262] != b"ustar":
            return {}
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for _ in range(MEMBER_LIMIT):
                member = archive.next()
                if member is None:
                    break
                if member.isreg() and not member.issparse() and 0 <= member.offset_data <= member.offset_data + member.size <= size:
                    found.setdefault(member.name, (member.offset_data, member.offset_data + member.size))
    return found


def _read(path: Path, *, trust: bool) -> tuple[tuple[str, ...], Resolve, Reading]:
    """Names in the two lists, what tells tensors by their keys, and the content."""
    try:
        members = _members(path)
    except tarfile.TarError as error:
        raise Contradiction("it does not parse as a tar archive") from error
    missing = [part for part in PARTS if part not in members]
    if missing:
        raise Contradiction(f"the archive holds no {missing[0]!r}, or only a part of it")
    with mapped(path) as data:
        stored = _Cursor(data, *members["storages"])
        extents = _extents(stored)
        listed = _Cursor(data, *members["tensors"])
        places = dict(_places(path.name, listed, extents))
        names = (*stored.names, *listed.names)
        require_harmless(path, names, None, trust=trust)
        start, end = members["pickle"]
        if end - start > PICKLE_LIMIT:
            raise Contradiction(f"its pickle has {end - start} bytes")
        return names, _resolver(places), read_pickle(bytes(data[start:end]))


class _Cursor:
    """A place in a member of the archive, moved on by reading."""

    def __init__(self, data: Stream, start: int, end: int) -> None:
        self.data, self.at, self.end = data, start, end
        self.names: tuple[str, ...] = ()

    def pickle(self) -> Tree:
        """The next pickle."""
        reading = read_pickle(self.data, self.at)
        self.at = reading.end
        self.names += tuple(name for name in reading.names if name not in self.names)
        self._require()
        return reading.tree

    def numbers(self, count: int) -> tuple[int, ...]:
        """The next numbers of 8 bytes."""
        start = self.at
        self.skip(8 * count)
        return struct.unpack(f"<{count}q", self.data[start : self.at])

    def skip(self, length: int) -> None:
        """Go on by so many bytes."""
        self.at += length
        self._require()

    def count(self) -> int:
        """How many things follow, each at least a byte long."""
        count = self.pickle()
        if not is_count(count) or count > self.end - self.at:
            raise Contradiction(f"{self.end - self.at} bytes are said to hold more things than bytes")
        return int(count)

    def _require(self) -> None:
        if self.at > self.end:
            raise NotAPickle(f"a part of the archive ends at byte {self.end}, and {self.at - self.end} bytes more are expected")


def _extents(cursor: _Cursor) -> dict[int, tuple[Storage, Extent]]:
    """Key -> storage and where its numbers lie, views included."""
    found: dict[int, tuple[Storage, Extent]] = {}
    for _ in range(cursor.count()):
        key, location, kind = _triple(cursor.pickle())
        (numel,) = cursor.numbers(1)
        storage = storage_of(Persistent(("storage", kind, key, location, numel)))
        found[_key(key)] = storage, Extent(cursor.at, numel * storage.width)
        cursor.skip(numel * storage.width)
    for target, root, start, numel in _views(cursor.pickle()):
        storage, whole = found[root]
        part = Extent(whole.offset + start * storage.width, numel * storage.width)
        if part.offset + part.length > whole.offset + whole.length:
            raise Contradiction(f"a view reaches past the {whole.length} bytes of its storage")
        found[target] = storage, part
    return found


def _places(file: str, cursor: _Cursor, extents: Mapping[int, tuple[Storage, Extent]]) -> Iterator[tuple[int, Place | str]]:
    """Key of each tensor and where it lies."""
    for _ in range(cursor.count()):
        key, storage_key, _ = _triple(cursor.pickle())
        storage, extent = extents[_key(storage_key)]
        axes = cursor.numbers(1)[0] & 0xFFFFFFFF  # 4 bytes, and 4 that mean nothing
        if axes > 64:
            raise Contradiction(f"a tensor has {axes} axes")
        sizes, strides, (start,) = cursor.numbers(axes), cursor.numbers(axes), cursor.numbers(1)
        if min((start, *sizes, *strides)) < 0:
            raise Contradiction("a size, stride or start of a tensor is negative")
        yield _key(key), place_of(file, extent, storage.dtype, start, sizes, strides)


def _resolver(places: Mapping[int, Place | str]) -> Resolve:
    def resolve(node: Tree) -> Place | str | None:
        node = bare(node)
        if not isinstance(node, Persistent):
            return None
        key = int(node.id) if isinstance(node.id, str) and node.id.isascii() and node.id.isdigit() and len(node.id) < 20 else node.id
        return places.get(key) if isinstance(key, int) else None

    return resolve


def _triple(tree: Tree) -> tuple[Tree, str, Name] | tuple[Tree, Tree, Tree]:
    if not isinstance(tree, tuple) or len(tree) != 3:
        raise Contradiction("an entry of its lists is not understood")
    return tree


def _key(key: Tree) -> int:
    if not isinstance(key, int) or key.bit_length() > 64:
        raise Contradiction("the key of a tensor or storage is no number")
    return key


def _views(tree: Tree) -> Iterator[tuple[int, int, int, int]]:
    if not isinstance(tree, list):
        raise Contradiction("the list of views is none")
    for view in tree:
        if not isinstance(view, tuple) or len(view) != 4 or not all(is_count(number) for number in view[2:]):
            raise Contradiction("a view is not understood")
        yield _key(view[0]), _key(view[1]), view[2], view[3]
