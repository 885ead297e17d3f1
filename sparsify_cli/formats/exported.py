"""Exported programs (`torch.export.save`, .pt2): the weights of each model in the archive, as raw members of a zip file.

A JSON text tells for every name in which member it lies, with sizes, strides and type; tied weights name the same member.
Constants of the graph and buffers that are not persistent lie elsewhere (`data/constants`) and stay what they are, as does
the graph. Weights that torch pickled one by one (subclasses of Tensor) are odd. Archives of torch 2.8 and before keep all
weights as one torch file inside; they are refused with a sentence.

Source: torch 2.13, `torch/export/pt2_archive/_package.py` and `torch/_export/serde/schema.py` (PayloadConfig, TensorMeta).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import SparsifyError, UnreadableFile
from sparsify_cli.values.layout import Layout, Place
from sparsify_cli.values.strict_json import NotJson, shown, strict_json
from sparsify_cli.values.torch_layout import told
from sparsify_cli.values.torch_tables import Contradiction, Extent, is_count, place_of
from sparsify_cli.values.zip_places import Member, check_of, content, members

KIND = "exported"
MARK = "archive_format"
OLD = frozenset({"serialized_exported_program.json", "serialized_state_dict.pt"})
WEIGHTS, CONFIG = "data/weights/", "_weights_config.json"
TEXT_LIMIT = 1 << 25
"""Bytes of the text that says where weights lie: some 100,000 weights."""
STRIDED = 7
OLD_WHY = "It was written by torch 2.8 or before, which kept all weights as one torch file inside the archive."
OLD_DO = "Load it with torch.export.load and save it again with torch.export.save in torch 2.9 or later."
COMPILED_WHY = "It holds no table of weights; an archive that AOTInductor compiled has them in its machine code."

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
        """True for a zip archive that says it is one, or that holds what torch before 2.8 put into one."""
        try:
            return path.is_file() and _starts_as_zip(path) and _is_program(members(path))
        except (SparsifyError, OSError):
            return False

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every weight and buffer lies; a table for each model when the archive holds several.

        Raises:
            UnreadableFile: truncated, corrupt, contradictory, compiled, or of torch 2.8 or before.
        """
        with told(path):
            return _layout(path, members(path))


@dataclass
class _Found:
    """What the texts of an archive say, as they are read."""

    tables: dict[tuple[str, ...], dict[str, Place]] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    used: dict[str, Member] = field(default_factory=dict)


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _root(inside: Mapping[str, Member]) -> str | None:
    """The folder that everything lies in, with its slash; None when the archive does not say that it is a program."""
    roots = [name.removesuffix(MARK) for name in inside if name.rpartition("/")[2] == MARK and name.count("/") <= 1]
    return roots[0] if len(roots) == 1 else None


def _is_program(inside: Mapping[str, Member]) -> bool:
    return _root(inside) is not None or inside.keys() >= OLD


def _layout(path: Path, inside: Mapping[str, Member]) -> Layout:
    root = _root(inside)
    configs = [name for name in inside if root is not None and name.startswith(root + WEIGHTS) and name.endswith(CONFIG)]
    if root is None or not configs:
        raise _without_weights(path, root, inside)
    _require_little(path, inside.get(f"{root}byteorder"))
    found = _Found()
    for name in configs:
        model = name.removeprefix(root + WEIGHTS).removesuffix(CONFIG)
        _read_table(path, inside, name, (model,) if len(configs) > 1 else (), found)
    checks = tuple(check_of(path.name, member) for member in sorted(found.used.values(), key=lambda member: member.offset))
    return Layout(KIND, path, path.parent, (path.name,), found.tables, odd=found.odd, checks=checks)


def _without_weights(path: Path, root: str | None, inside: Mapping[str, Member]) -> UnreadableFile:
    """The error for an archive that says nowhere where its weights lie."""
    is_old = root is None or any(name.startswith(root + WEIGHTS) and name.endswith(".pt") for name in inside)
    do = OLD_DO if is_old else "Pass the program that was compiled."
    return UnreadableFile(f"The weights of {path} cannot be located.", OLD_WHY if is_old else COMPILED_WHY, do)


def _require_little(path: Path, order: Member | None) -> None:
    if order is not None and content(path, order, 64).strip() != b"little":
        raise Contradiction("its numbers are stored most significant byte first")


def _read_table(path: Path, inside: Mapping[str, Member], name: str, key: tuple[str, ...], found: _Found) -> None:
    """The table of one model."""
    table = found.tables[key] = {}
    folder = name.rpartition("/")[0]
    for weight, said in _entries(content(path, inside[name], TEXT_LIMIT), name):
        place = _place(path.name, weight, said, inside, folder, found.used)
        if isinstance(place, Place):
            table[weight] = place
        else:
            found.odd[".".join((*key, weight))] = place


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
