"""Bytes that a tensor file would take, to the byte, without writing it: neither memory nor disk for a second copy.

A safetensors file is 8 bytes, a JSON header padded with spaces to a multiple of 8, and the bytes of the entries, widest type
first and then by name. The header holds every entry's name, type, shape and place, so its length needs no values; the
packed form of each tensor needs one look at them.

Source: the safetensors format, huggingface/safetensors, README "Format"; the order is that of its `prepare`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from sparsify_cli.values.packed import GAPS, sizes, smallest_of
from sparsify_cli.values.tensor_file import dense_note, packed_note, record_of, stored_form, tied

WORDS = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3"},
    **{"float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e8m0fnu": "F8_E8M0"},
    **{"int16": "I16", "uint16": "U16", "float16": "F16", "bfloat16": "BF16"},
    **{"int32": "I32", "uint32": "U32", "float32": "F32"},
    **{"complex64": "C64", "float64": "F64", "int64": "I64", "uint64": "U64"},
}
"""Types of number as torch and as safetensors call them, in the order of the format."""

UNWRITTEN = "C128"
"""Stands for the word of a type that the format has none for: its tensors are counted and cannot be written."""

ORDER = [*WORDS, "complex128"]
DIGEST = "0" * 64
"""As long as the checksum of a packed file."""


class Entry(NamedTuple):
    """One entry of a file: its name, torch's word for its type, sizes, and bytes a value."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.width


def dense_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of the file that `save_dense` would write.

    Raises:
        BadData: a layout that safetensors has no word for.
    """
    return _file_bytes([_entry(name, tensor) for name, tensor in tensors.items()], dense_note(tensors, tied(tensors)))


def packed_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of the file that `save_packed` would write.

    Raises:
        BadData: a layout that safetensors has no word for.
    """
    aliases = tied(tensors)
    plain = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    entries: list[Entry] = []
    records: dict[str, object] = {}
    for name, tensor in plain.items():
        found = sizes(tensor)
        form = stored_form(name, plain, lambda found=found: smallest_of(found))  # type: ignore[misc]
        entries += _packed_entries(name, tensor, form, found)
        records |= {} if form == "dense" else {name: record_of(tensor, form).to_json()}
    return _file_bytes(entries, packed_note(records, aliases, DIGEST))


def _entry(name: str, tensor: Tensor) -> Entry:
    return Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.element_size())


def _packed_entries(name: str, tensor: Tensor, form: str, found: Mapping[str, int]) -> list[Entry]:
    """The entries of a tensor in a form, from the bytes it takes in each: a bitmask tells how many values there are."""
    whole = _entry(name, tensor)
    if form == "dense":
        return [whole]
    mask = -(-tensor.numel() // 8)
    kept = found["bitmask"] - mask
    values = Entry(f"{name}::values", whole.dtype, (kept // whole.width,), whole.width)
    if form == "bitmask":
        return [Entry(f"{name}::bitmask", "uint8", (mask,), 1), values]
    width = GAPS[form]().itemsize
    return [Entry(f"{name}::gaps", f"uint{8 * width}", ((found[form] - kept) // width,), width), values]


def _file_bytes(entries: list[Entry], metadata: Mapping[str, str]) -> int:
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for entry in sorted(entries, key=lambda one: (-ORDER.index(one.dtype), one.name)):
        header[entry.name] = {
            "dtype": WORDS.get(entry.dtype, UNWRITTEN),
            "shape": entry.shape,
            "data_offsets": [start, start + entry.nbytes],
        }
        start += entry.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + start
