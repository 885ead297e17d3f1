"""Exported programs (`torch.export.save`, .pt2): the weights of each model in the archive, as raw members of a zip file.

A JSON text tells for every name in which member it lies, with sizes, strides and type; tied weights name the same member.
Constants of the graph and buffers that are not persistent lie elsewhere (`data/constants`) and stay what they are, as does
the graph. Weights that torch pickled one by one (subclasses of Tensor) are odd.

Torch 2.8 and before keep the weights of a model as one torch file inside: `data/weights/model.pt` in an archive that is
otherwise the same (2.8), `serialized_state_dict.pt` at the top of an older one (before). Their weights lie in the archive
within the archive, and change in place there: its own checksums are renewed first, then that of the file that it is.

Source: torch 2.13, `torch/export/pt2_archive/_package.py`, `torch/_export/serde/schema.py` (PayloadConfig, TensorMeta) and,
for what torch wrote before, `torch/export/__init__.py` (`load`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import SparsifyError, UnreadableFile
from sparsify_cli.values.layout import Check, Key, Layout, Place
from sparsify_cli.values.strict_json import NotJson, shown, strict_json
from sparsify_cli.values.torch_layout import told
from sparsify_cli.values.torch_tables import Contradiction, Extent, is_count, place_of
from sparsify_cli.values.torch_zip_file import zip_layout
from sparsify_cli.values.zip_places import Member, check_of, content, members

KIND = "exported"
MARK = "archive_format"
WEIGHTS, CONFIG, WHOLE = "data/weights/", "_weights_config.json", ".pt"
"""Folder of weights; how the names of what is in it end: a model's table of weights, and a torch file with all of them."""
OLD_GRAPH = "serialized_exported_program.json"
OLD_WEIGHTS = frozenset({"serialized_state_dict.pt", "serialized_state_dict.json"})
"""Names in archives of torch 2.7 and before; that of the torch file ended with .json at first."""
TEXT_LIMIT = 1 << 25
"""Bytes of the text that says where weights lie: some 100,000 weights."""
STRIDED = 7
COMPILED_WHY = "It holds no table of weights; an archive that AOTInductor compiled has them in its machine code."
COMPRESSED_DO = "Load it with torch.export.load and save it again with torch.export.save."

TYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"},
    **{9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16"},
    **{29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu"},
    **{34: "uint32", 35: "uint64"},
}
"""ScalarType of the schema -> torch's word."""


@dataclass(frozen=True)
class Exported(Format):
    """Programs of torch.export (`.pt2`): weights in place, graph untouched."""

    def recognises(self, path: Path) -> bool:
        """True for a zip archive that says it is one, or that holds what torch 2.7 and before put into one."""
        try:
            return path.is_file() and _starts_as_zip(path) and _is_program(members(path))
        except (SparsifyError, OSError):
            return False

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every weight and buffer lies; a table for each model when the archive holds several.

        Raises:
            UnreadableFile: truncated, corrupt, contradictory, compiled.
            UnsafePickle: the pickle in an archive of torch 2.8 or before names code, and `trust` is False.
        """
        with told(path):
            return _layout(path, members(path), trust=trust)


@dataclass
class _Found:
    """What the texts of an archive say, as they are read; `inner` are checksums within the archives within it."""

    tables: dict[Key, dict[str, Place]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    used: dict[str, Member] = field(default_factory=dict)
    inner: list[Check] = field(default_factory=list)
    foreign: dict[str, None] = field(default_factory=dict)


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _root(inside: Mapping[str, Member]) -> str | None:
    """The folder that everything lies in, with its slash; None when the archive does not say that it is a program."""
    roots = [name.removesuffix(MARK) for name in inside if name.rpartition("/")[2] == MARK and name.count("/") <= 1]
    return roots[0] if len(roots) == 1 else None


def _is_program(inside: Mapping[str, Member]) -> bool:
    return _root(inside) is not None or (OLD_GRAPH in inside and not OLD_WEIGHTS.isdisjoint(inside))


def _layout(path: Path, inside: Mapping[str, Member], *, trust: bool) -> Layout:
    root = _root(inside)
    weights = _weights(root, inside)
    if not weights:
        raise UnreadableFile(f"The weights of {path} cannot be located.", COMPILED_WHY, "Pass the program that was compiled.")
    _require_little(path, inside.get(f"{root or ''}byteorder"))
    found = _Found()
    for model, name in weights.items():
        key = (model,) if len(weights) > 1 else ()
        if name.endswith(CONFIG):
            _read_table(path, inside, name, key, found)
        else:
            _read_file(path, inside[name], key, found, trust=trust)
    outer = [check_of(path.name, member) for member in sorted(found.used.values(), key=lambda member: member.offset)]
    return Layout(
        kind=KIND,
        path=path,
        root=path.parent,
        files=(path.name,),
        tables=found.tables,
        others=found.others,
        odd=found.odd,
        checks=(*found.inner, *outer),
        foreign=tuple(found.foreign),
    )


def _weights(root: str | None, inside: Mapping[str, Member]) -> dict[str, str]:
    """Model -> the member that says where its weights are, or holds them; where there are several, the one that torch takes."""
    if root is None:
        last = next((name for name in reversed(list(inside)) if name in OLD_WEIGHTS), None)
        return {"": last} if last else {}
    folder, found = root + WEIGHTS, dict[str, str]()
    for ending in (CONFIG, WHOLE):
        names = [name for name in inside if name.startswith(folder) and name.endswith(ending)]
        found.update({name[len(folder) : -len(ending)]: name for name in names})
    return found


def _require_little(path: Path, order: Member | None) -> None:
    if order is not None and content(path, order, 64).strip() != b"little":
        raise Contradiction("its numbers are stored most significant byte first")


def _read_table(path: Path, inside: Mapping[str, Member], name: str, key: Key, found: _Found) -> None:
    """The table of one model."""
    table = found.tables[key] = {}
    folder = name.rpartition("/")[0]
    for weight, said in _entries(content(path, inside[name], TEXT_LIMIT), name):
        place = _place(path.name, weight, said, inside, folder, found.used)
        if isinstance(place, Place):
            table[weight] = place
        else:
            found.odd[".".join((*key, weight))] = place


def _read_file(path: Path, member: Member, key: Key, found: _Found, *, trust: bool) -> None:
    """The table of one model, from a torch file in the archive."""
    if not member.stored:
        why = f"All of them are in {shown(member.name)}, which is compressed in the archive."
        raise UnreadableFile(f"The weights of {path} cannot be located.", why, COMPRESSED_DO)
    if not member.length:  # what torch wrote for none
        return
    inner = zip_layout(path, trust=trust, within=member)
    found.tables.update({(*key, *keys): dict(table) for keys, table in inner.tables.items()})
    found.odd.update({".".join((*key, name)): why for name, why in inner.odd.items()})
    found.others.update({".".join((*key, name)).removesuffix("."): what for name, what in inner.others.items()})
    found.foreign.update(dict.fromkeys(inner.foreign))
    found.inner += inner.checks
    found.used[member.name] = member


def _entries(text: bytes, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        said = strict_json(text)
    except NotJson as error:
        raise Contradiction(f"{name} is damaged, {error}") from error
    entries = said.get("config") if isinstance(said, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise Contradiction(f"{name} is no table of weights")
    yield from entries.items()


def _place(
    file: str, weight: str, said: Mapping[str, Any], inside: Mapping[str, Member], folder: str, used: dict[str, Member]
) -> Place | str:
    """Where one weight lies, or why it is an odd one; notes its member."""
    path_name, about = said.get("path_name"), said.get("tensor_meta")
    if said.get("use_pickle") is not False:
        return "pickled by itself in the archive"
    if not isinstance(path_name, str) or not isinstance(about, dict):
        raise Contradiction(f"{shown(weight)} has no member or no description")
    member = inside.get(f"{folder}/{path_name}")
    if member is None:
        raise Contradiction(f"{shown(weight)} lies in {shown(path_name)}, and there is no such member")
    if about.get("layout") != STRIDED:
        return "stored sparse"
    sizes, strides, start = _integers(weight, about.get("sizes")), _integers(weight, about.get("strides")), about.get("storage_offset")
    if not member.stored:
        return "compressed in the archive"
    used[member.name] = member
    (first,) = _integers(weight, [start])
    return place_of(file, Extent(member.offset, member.length), _type(weight, about.get("dtype")), first, sizes, strides)


def _type(weight: str, said: Any) -> str:
    if isinstance(said, int) and not isinstance(said, bool) and said in TYPES:
        return TYPES[said]
    raise Contradiction(f"{shown(weight)} is of the unknown type {str(said)[:40]}")


def _integers(weight: str, said: Any) -> tuple[int, ...]:
    """Sizes, strides or an offset, each written as {"as_int": n}."""
    values: list[Any] = [one.get("as_int") if isinstance(one, dict) else None for one in said] if isinstance(said, list) else [None]
    if all(is_count(value) for value in values):
        return tuple(values)
    raise Contradiction(f"{shown(weight)} has sizes, strides or an offset that are not numbers from 0")
