"""Tensor files: named tensors in a safetensors file, dense or packed, written whole and read with suspicion.

A *dense* file holds every tensor under its own name and loads in any program that reads safetensors. A *packed* file
is a safetensors file too: each tensor lies there in the smallest of the forms of `packed.py`, dense ones under their
own names. The header's metadata hold one JSON text under the key `sparsify`:

    {"schema": "sparsify/packed/1",
     "tensors": {"conv1.weight": {"form": "gaps8", "dtype": "float32", "shape": [16, 1, 3, 3]}, ...},   not for dense ones
     "aliases": {"head.weight": "embedding.weight", ...},
     "sha256": "..."}

An alias is a second name of the same tensor (tied weights): the packed file stores it once, the dense file (schema
`sparsify/dense/1`, the text only there when something is tied or a name ends like an entry of a packed file) once under
each name; reading ties them again. `sha256` (packed only) is taken over the JSON text `[tensors, aliases]` (keys sorted, no
spaces), then for every entry, sorted by name: its name, torch dtype and sizes as `name dtype [sizes]` and its bytes. Names
are sorted and the same tensors give the same bytes. A file without the text whose names are those of packed entries is
refused: it lost its text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsify_cli.errors import BadData, BadRequest, MissingFile, Regression, UnreadableFile
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.packed import FORMS, SAME_SIZE, Corrupt, Record, bits, decode, differing, encode, smallest
from sparsify_cli.values.report import Finding
from sparsify_cli.values.safetensors_header import is_safetensors, read_header
from sparsify_cli.values.strict_json import NotJson, strict_json

PACKED, DENSE = "sparsify/packed/1", "sparsify/dense/1"
USUAL = ("model.packed.safetensors", "model.safetensors")
AGAIN = "Make it again, or copy it again from where it came."


def save_dense(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write every tensor under its own name; any program that reads safetensors loads it.

    Raises:
        BadData: a dtype or layout that safetensors has no word for.
        DiskFailure: the file system refused.
    """
    note = dense_note(tensors, tied(tensors))
    plain = _plain(tensors)
    replace_file(path, lambda temporary: _write(temporary, plain, note))


def save_packed(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write each tensor in its smallest exact form.

    Raises:
        BadData: a dtype or layout that safetensors has no word for.
        DiskFailure: the file system refused.
    """
    aliases = tied(tensors)
    plain = _plain({name: tensor for name, tensor in tensors.items() if name not in aliases})
    records: dict[str, Any] = {}
    entries: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        form = stored_form(name, plain, lambda tensor=tensor: smallest(tensor))  # type: ignore[misc]
        if form == "dense":
            entries[name] = tensor
        else:
            records[name] = record_of(tensor, form).to_json()
            entries |= {f"{name}::{suffix}": entry for suffix, entry in encode(tensor, form).items()}
    note = packed_note(records, aliases, _digest(records, aliases, entries))
    replace_file(path, lambda temporary: _write(temporary, entries, note))


def dense_note(tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a dense file: ours only where something is tied, or where names look like entries of a packed file."""
    ours = {"sparsify": json.dumps({"schema": DENSE, "aliases": aliases}, sort_keys=True)}
    return {"format": "pt", **(ours if aliases or _packed_pairs(tensors) else {})}


def packed_note(records: Mapping[str, Any], aliases: Mapping[str, str], sha256: str) -> dict[str, str]:
    """Metadata of a packed file."""
    return {"sparsify": json.dumps({"schema": PACKED, "tensors": records, "aliases": aliases, "sha256": sha256}, sort_keys=True)}


def record_of(tensor: Tensor, form: str) -> Record:
    """What a packed file says about a tensor that lies there in a form other than dense."""
    return Record(form, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def stored_form(name: str, names: Mapping[str, Tensor], smallest_form: Callable[[], str]) -> str:
    """The smallest form; dense where another tensor already has a name that this one's entries would get."""
    return "dense" if any(f"{name}::{suffix}" in names for suffix in ("bitmask", "gaps", "values")) else smallest_form()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a dense, packed or foreign safetensors file, sorted by name.

    Raises:
        MissingFile: there is no such file.
        UnreadableFile: it is truncated, corrupt or of an unknown kind.
    """
    entries, header = _open(path)
    try:
        tensors = _unpack(entries, header)
    except (Corrupt, MemoryError, RuntimeError) as error:
        raise UnreadableFile(f"{path} is damaged.", f"It contradicts itself: {error}.", AGAIN) from error
    return dict(sorted(tensors.items()))


def is_ours(path: Path) -> bool:
    """True for a file that `save_dense` or `save_packed` wrote with a header of ours; such a file is read whole, by `read`.

    A file with a damaged header is nobody's.
    """
    if not is_safetensors(path) or not _mentions_us(path):
        return False
    try:
        text = read_header(path).metadata.get("sparsify", "")
        header = strict_json(text.encode())
    except (MissingFile, UnreadableFile, NotJson):
        return False
    schema = header.get("schema") if isinstance(header, dict) else None
    return isinstance(schema, str) and schema.startswith("sparsify/")


def _mentions_us(path: Path) -> bool:
    """True when our word is in the header at all; most files need not be understood to know that they are not ours."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return b'"sparsify"' in file.read(min(length, path.stat().st_size))


def find(path: Path) -> Path:
    """The tensor file that a path means: itself, or the one inside a folder (`model.packed.safetensors` first).

    Raises:
        MissingFile: the folder holds none.
        BadRequest: it holds several and none has a usual name.
    """
    if not path.is_dir():
        return path
    found = sorted(file for file in path.glob("*.safetensors") if file.name != "masks.safetensors")  # bits, and no network
    chosen = [path / name for name in USUAL if path / name in found] or found
    if not chosen:
        raise MissingFile(f"The folder {path} holds no safetensors file.", do="Give the file itself or a folder made by `sparsify export`.")
    if len(chosen) > 1 and chosen[0].name not in USUAL:
        listed = ", ".join(file.name for file in found)
        raise BadRequest(f"The folder {path} holds {len(found)} safetensors files: {listed}.", "Any of them could be meant.", "Name one.")
    return chosen[0]


def forms(path: Path) -> dict[str, int]:
    """How many stored tensors of a file lie in each form.

    Raises:
        MissingFile, UnreadableFile: as for `read`.
    """
    entries, header = _open(path)
    records = header.get("tensors", {}) if header else {}
    names = [record["form"] for record in records.values()]
    return {"dense": len(entries) - 2 * len(records), **{form: names.count(form) for form in FORMS[1:]}}


def require_equal(path: Path, tensors: Mapping[str, Tensor]) -> list[Finding]:
    """Read a file and compare every value with `tensors`, bit for bit; findings: bytes before and after, values compared.

    Raises:
        Regression: a value differs, or a tensor is missing or too many.
        MissingFile, UnreadableFile: as for `read`.
    """
    actual = read(path)
    wrong = {name: differing(tensor, actual.get(name)) for name, tensor in tensors.items()}
    wrong |= {name: max(1, actual[name].numel()) for name in actual.keys() - tensors.keys()}
    bad = sorted(name for name, count in wrong.items() if count)
    if bad:
        total = sum(wrong.values())
        what = f"{path} is not what was exported: {total} values differ in {len(bad)} tensors, first {bad[0]!r}."
        raise Regression(what, "Every bit has to be the same.", "Do not use the file; export again.")
    before, values = sum(t.nbytes for t in tensors.values()), sum(t.numel() for t in tensors.values())
    return [
        Finding(
            name="bytes", value=float(before), unit="bytes", of="dense", better="lower", definition="Bytes of all values, stored dense."
        ),
        Finding(name="bytes", value=float(path.stat().st_size), unit="bytes", better="lower", definition="Size of the exported file."),
        Finding(name="differing_values", value=0.0, unit="values", n=values, better="lower", definition="Values whose bits differ."),
    ]


def tied(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Second names of one and the same tensor: name -> the first of its names in sorted order.

    Raises:
        BadData: a layout of which memory says nothing.
    """
    first: dict[tuple[object, ...], str] = {}
    aliases = {}
    for name in sorted(tensors):
        tensor = _strided(name, tensors[name])
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and first.setdefault(key, name) != name:
            aliases[name] = first[key]
    return aliases


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, sorted by name, no two of which share memory (safetensors refuses those)."""
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name in sorted(tensors):
        if tensors[name].element_size() not in SAME_SIZE:
            raise _no_word(name, tensors[name])
        whole = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        shares = whole.untyped_storage().nbytes() != whole.nbytes or whole.untyped_storage().data_ptr() in storages
        plain[name] = whole.clone() if shares else whole
        storages.add(plain[name].untyped_storage().data_ptr())
    return plain


def _strided(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout == torch.strided and not tensor.is_quantized:
        return tensor
    raise _no_word(name, tensor)


def _no_word(name: str, tensor: Tensor) -> BadData:
    kind = f"{str(tensor.dtype).removeprefix('torch.')} ({str(tensor.layout).removeprefix('torch.')})"
    return BadData(f"{name!r} is {kind}.", "A safetensors file cannot hold that.", "Convert the tensor first.")


def _packed_pairs(names: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors whose two packed entries are there."""
    bare = [name.removesuffix("::values") for name in names if name.endswith("::values")]
    return [name for name in bare if f"{name}::bitmask" in names or f"{name}::gaps" in names]


def _write(path: Path, entries: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Save, then put the metadata in sorted order: safetensors leaves them in a random one."""
    save_file(dict(entries), path, metadata=metadata)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) == size:
            file.seek(8)
            file.write(text)


def _digest(records: Mapping[str, Any], aliases: Mapping[str, str], entries: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256(json.dumps([records, aliases], sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(entries):
        entry = entries[name]
        state.update(f"{name} {str(entry.dtype).removeprefix('torch.')} {list(entry.shape)}".encode())
        state.update(bits(entry).tobytes())
    return state.hexdigest()


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Entries and our header, None in a foreign file."""
    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", do="Check the path.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise UnreadableFile(f"{path} is not a readable safetensors file.", f"It does not parse: {error}.", AGAIN) from error
    return entries, _header(path, metadata.get("sparsify"))


def _header(path: Path, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    schema = header.get("schema") if isinstance(header, dict) else None
    if schema in (PACKED, DENSE) and isinstance(header, dict):
        return _checked(path, header)
    known = f"This version knows {PACKED} and {DENSE}."
    raise UnreadableFile(f"{path} has the schema {schema!r}.", known, "Read it with the version of sparsify that wrote it.")


def _checked(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The header with its two tables as dictionaries and sound records."""
    tables = [header.setdefault(key, {}) for key in ("tensors", "aliases")]
    try:
        if not all(isinstance(table, dict) for table in tables):
            raise Corrupt("a table of its header is not a table")
        for record in header["tensors"].values():
            Record.from_json(record)
    except Corrupt as error:
        raise UnreadableFile(f"{path} is damaged.", f"It contradicts itself: {error}.", AGAIN) from error
    return header


def _unpack(entries: dict[str, Tensor], header: dict[str, Any] | None) -> dict[str, Tensor]:
    if header is None:
        if pairs := _packed_pairs(entries):
            raise Corrupt(f"it holds packed entries, such as those of {pairs[0]!r}, and nothing that says what they mean")
        return entries
    if header["schema"] == PACKED and header.get("sha256") != _digest(header["tensors"], header["aliases"], entries):
        raise Corrupt("its content does not have the checksum it was written with")
    tensors = dict(entries)
    for name, value in header["tensors"].items():
        tensors[name] = _decoded(name, Record.from_json(value), tensors)
    for name, first in header["aliases"].items():
        if not isinstance(first, str) or first not in tensors:
            raise Corrupt(f"{name!r} is another name of {first!r}, which is not there")
        tensors[name] = tensors[first]
    return tensors


def _decoded(name: str, record: Record, tensors: dict[str, Tensor]) -> Tensor:
    """One tensor from its entries, which are taken out of `tensors`."""
    suffixes = ("bitmask" if record.form == "bitmask" else "gaps", "values")
    missing = [f"{name}::{suffix}" for suffix in suffixes if f"{name}::{suffix}" not in tensors]
    if missing or name in tensors:
        raise Corrupt(f"the entry {missing[0]!r} is missing" if missing else f"{name!r} is there twice")
    try:
        return decode(record, {suffix: tensors.pop(f"{name}::{suffix}") for suffix in suffixes})
    except Corrupt as error:
        raise Corrupt(f"{name!r} does not decode: {error}") from error
