"""Torch checkpoints as torch 1.6 and later save them: a zip archive of one pickle and one member a storage, none compressed.

Source: torch 2.13, `torch/serialization.py` (`_save`, `_load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.layout import Layout
from sparsify_cli.values.pickle_tree import Tree, read_pickle
from sparsify_cli.values.torch_layout import layout_of, told, touched, unreadable
from sparsify_cli.values.torch_tensors import Contradiction, Extent, Storage, tensor_reader
from sparsify_cli.values.zip_places import LOCAL, Member, check_of, content, members

KIND = "torch-zip"


def is_torch_zip(path: Path) -> bool:
    """True for a zip archive with a torch pickle that is neither TorchScript nor a program of torch.export; also when cut off."""
    if not path.is_file() or _head(path) != LOCAL:
        return False
    try:
        return _is_checkpoint(members(path))
    except UnreadableFile:
        return _may_be_cut(path)


def zip_layout(path: Path, *, trust: bool = False, within: Member | None = None) -> Layout:
    """Where every tensor lies, from the directory of the archive and its pickle.

    Args:
        path: of the archive.
        trust: a pickle that names code is read, still without running it.
        within: a member of the archive, stored, that is itself such an archive and is meant. Places and checksums are those
            of what lies in it, in the whole file; the checksum over the member itself is not among them.

    Raises:
        UnreadableFile: truncated, corrupt, contradictory.
        UnsafePickle: it names code and `trust` is False.
    """
    with told(path):
        inside = members(path, within)
        root = _root(inside)
        _require_little(path, inside.get(f"{root}/byteorder"))
        if f"{root}/data.pkl" not in inside:
            raise Contradiction(f"the archive holds no {root}/data.pkl")
        reading = read_pickle(content(path, inside[f"{root}/data.pkl"]))
        resolve = tensor_reader(path.name, lambda storage: _extent(storage, inside, root))
        found = layout_of(KIND, path, reading, resolve, trust=trust)
        checks = [check_of(path.name, member) for name, member in inside.items() if name.startswith(f"{root}/data/") and member.stored]
        return replace(found, checks=touched(found, checks))


def zip_tree(path: Path) -> Tree:
    """What the pickle of such an archive says.

    Raises:
        UnreadableFile: truncated, corrupt.
    """
    with told(path):
        inside = members(path)
        return read_pickle(content(path, inside[f"{_root(inside)}/data.pkl"])).tree


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _root(inside: Mapping[str, Member]) -> str:
    """The folder in the archive that torch reads: that of the first member."""
    return next(iter(inside), "").partition("/")[0]


def _is_checkpoint(inside: Mapping[str, Member]) -> bool:
    root = _root(inside)
    script = f"{root}/constants.pkl" in inside or any(name.startswith(f"{root}/code/") for name in inside)
    program = any(name.rpartition("/")[2] == "archive_format" or ("models/" in name and name.endswith(".json")) for name in inside)
    return f"{root}/data.pkl" in inside and not script and not program


def _may_be_cut(path: Path) -> bool:
    """True for a damaged archive whose first member is such a pickle (no directory says what else it held)."""
    with path.open("rb") as file:
        header = file.read(4096)
    name = header[30 : 30 + int.from_bytes(header[26:28], "little")]
    return name.endswith(b"/data.pkl") and b"/constants.pkl" not in header


def _require_little(path: Path, member: Member | None) -> None:
    order = content(path, member, 64).strip() if member is not None else b"little"
    if order == b"big":
        raise UnreadableFile(
            f"{path} was saved on a big-endian machine.",
            "Its numbers have their bytes in the other order.",
            "Load it and save it again on a little-endian machine (x86, ARM).",
        )
    if order != b"little":
        raise unreadable(path, f"its byte order is {order[:16]!r}")


def _extent(storage: Storage, inside: Mapping[str, Member], root: str) -> Extent:
    member = inside.get(f"{root}/data/{storage.key}")
    if member is None:
        raise Contradiction(f"the storage {storage.key!r} is not in the archive")
    if not member.stored:
        return Extent(0, 0, "compressed in the archive")
    if storage.numel * storage.width > member.length:
        raise Contradiction(f"the storage {storage.key!r} of {storage.numel} numbers has {member.length} bytes")
    return Extent(member.offset, member.length)
