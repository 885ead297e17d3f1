"""Packed tensors: exact storage of one sparse tensor in the smallest of four forms.

A position is *zero* when all bits of its value are 0, so -0.0 and every NaN are values like any other and a round
trip gives back the same bits. With N positions in row-major order, K of them not zero, and e bytes a value:

    dense     the tensor as it is                                                  N e bytes
    bitmask   `<name>::bitmask` uint8[ceil(N/8)], one bit a position, first
              position in the lowest bit, 1 = value, bits after N are 0;
              `<name>::values`  the K values in row-major order                    ceil(N/8) + K e
    gaps8     `<name>::gaps` uint8: how many zeros come before each value;
              255 = skip 255 zeros and place no value. Zeros after the last
              value: one 255 for each full 255 of them, the rest is implied;
              `<name>::values` as above                                            K (e + 1) + number of 255s
    gaps16    the same with uint16 (little endian) and 65535                       2 K + K e + 2 (number of 65535s)

`smallest` takes the form with the fewest bytes, counting 200 bytes of header for every form but dense, so that small
tensors stay readable by anybody. For 32-bit values that is the bitmask between 12 % and 97 % density, gaps8 below, gaps16
below about 0.3 %. Keeping 2 of 4 needs no form of its own: two 2-bit indices a group are the four bits of its bitmask.

How tensors and their records lie in a file is said in `tensor_file.py`.

Source: formats and byte counts as in Hoefler et al. 2021 (arXiv 2102.00554), section 2.2 (bitmap, delta / run-length,
index lists). Ours: long gaps are escapes instead of stored zero values, which is shorter and keeps the values exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

OVERHEAD = 200
"""Bytes of file header that a second entry and a record cost, about."""

GAPS: Final[Mapping[str, type[np.unsignedinteger[Any]]]] = {"gaps8": np.uint8, "gaps16": np.uint16}
FORMS = ("dense", "bitmask", *GAPS)
SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type of as many bytes: how the bits of a value are looked at."""

Array = npt.NDArray[Any]


class Corrupt(Exception):
    """Entries that contradict each other; the sentence says where."""


@dataclass(frozen=True)
class Record:
    """What a file says about one packed tensor.

    Args:
        form: `bitmask`, `gaps8` or `gaps16`.
        dtype: as torch calls it, `float32`.
        shape: sizes of the tensor.
    """

    form: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def positions(self) -> int:
        """How many values the shape holds, zeros included."""
        return math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"form": self.form, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: object) -> Record:
        """What `to_json` wrote, from a file that nobody vouches for.

        Raises:
            Corrupt: it is something else.
        """
        match value:
            case {"form": str(form), "dtype": str(dtype), "shape": list(shape)} if form in FORMS[1:] and _is_shape(shape):
                return cls(form, dtype, tuple(shape))
        raise Corrupt(f"a record reads {str(value)[:80]!r}, which is no form, dtype and shape")


def bits(tensor: Tensor) -> Array:
    """The values of a tensor as integers of the same size (two for one of 16 bytes), flat, row-major; no copy where torch can avoid it."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    plain = torch.view_as_real(plain).reshape(-1) if plain.element_size() not in SAME_SIZE else plain
    array: Array = plain.view(SAME_SIZE[plain.element_size()]).numpy()
    return array


def differing(expected: Tensor, actual: Tensor | None) -> int:
    """Positions whose bits differ; every position when shape or dtype do."""
    if actual is None or expected.shape != actual.shape or expected.dtype != actual.dtype:
        return max(1, expected.numel())
    return int((bits(expected) != bits(actual)).sum())


def sizes(tensor: Tensor) -> dict[str, int]:
    """Bytes that each form takes for this tensor, headers not counted; the bitmask and the gaps only where they can win."""
    values, width = bits(tensor), tensor.element_size()
    if width not in SAME_SIZE:
        return {"dense": tensor.nbytes}
    kept = int(np.count_nonzero(values))
    found = {"dense": values.size * width, "bitmask": -(-values.size // 8) + kept * width}
    if kept * 8 < values.size:  # a gap is a byte or more, a bitmask an eighth of a byte a position
        gaps, rest = _gaps(values)
        found |= {form: kept * width + _stream_bytes(gaps, rest, kind) for form, kind in GAPS.items()}
    return found


def smallest(tensor: Tensor) -> str:
    """The form with the fewest bytes, header included; the earlier of FORMS when two are equal."""
    return smallest_of(sizes(tensor))


def smallest_of(found: Mapping[str, int]) -> str:
    """As `smallest`, from the bytes that each form takes."""
    cost = {form: size + (0 if form == "dense" else OVERHEAD) for form, size in found.items()}
    return min(cost, key=lambda form: (cost[form], FORMS.index(form)))


def encode(tensor: Tensor, form: str) -> dict[str, Tensor]:
    """The entries of a tensor in a form other than dense: suffix of the entry's name -> entry."""
    flat = bits(tensor)
    kept = torch.from_numpy(flat[flat != 0]).view(tensor.dtype)
    if form == "bitmask":
        return {"bitmask": torch.from_numpy(np.packbits(flat != 0, bitorder="little")), "values": kept}
    return {"gaps": torch.from_numpy(_stream(*_gaps(flat), GAPS[form])), "values": kept}


def decode(record: Record, entries: Mapping[str, Tensor]) -> Tensor:
    """The tensor that `encode` took apart; memory is taken only after the entries agree with the shape.

    Raises:
        Corrupt: the entries contradict the record or each other.
    """
    values = entries["values"]
    if values.dim() != 1 or record.dtype != str(values.dtype).removeprefix("torch."):
        raise Corrupt(f"its values are {str(values.dtype).removeprefix('torch.')}{list(values.shape)}, its record says {record.dtype}")
    where = _from_bitmask(record, entries["bitmask"]) if record.form == "bitmask" else _from_gaps(record, entries["gaps"])
    if len(where) != len(values):
        raise Corrupt(f"{len(where)} positions are marked but {len(values)} values are there")
    flat = torch.zeros(record.positions, dtype=SAME_SIZE[values.element_size()])
    flat.numpy()[where] = bits(values)
    return flat.view(values.dtype).reshape(record.shape)


def _is_shape(shape: list[Any]) -> bool:
    return all(type(size) is int and 0 <= size < 2**48 for size in shape) and len(shape) <= 64 and math.prod(shape) < 2**48


def _gaps(flat: Array) -> tuple[Array, int]:
    """Zeros before each value, and zeros after the last."""
    where = np.flatnonzero(flat)
    return np.diff(where, prepend=-1) - 1, flat.size - (int(where[-1]) + 1 if where.size else 0)


def _stream_bytes(gaps: Array, rest: int, kind: type[np.unsignedinteger[Any]]) -> int:
    escape = int(np.iinfo(kind).max)
    return (gaps.size + int((gaps // escape).sum()) + rest // escape) * np.dtype(kind).itemsize


def _stream(gaps: Array, rest: int, kind: type[np.unsignedinteger[Any]]) -> Array:
    escape = int(np.iinfo(kind).max)
    escapes = gaps // escape
    stream = np.full(gaps.size + int(escapes.sum()) + rest // escape, escape, dtype=kind)
    stream[np.arange(gaps.size) + np.cumsum(escapes)] = gaps % escape
    return stream


def _from_bitmask(record: Record, packed: Tensor) -> Array:
    if packed.dtype != torch.uint8 or packed.shape != (-(-record.positions // 8),):
        raise Corrupt(f"a bitmask of {packed.numel()} bytes cannot cover {record.positions} positions")
    marked = np.flatnonzero(np.unpackbits(packed.numpy(), bitorder="little"))
    if marked.size and marked[-1] >= record.positions:
        raise Corrupt(f"its bitmask marks position {marked[-1]} of {record.positions}")
    return marked


def _from_gaps(record: Record, stream: Tensor) -> Array:
    kind = GAPS[record.form]
    if stream.dim() != 1 or stream.numpy().dtype != kind:
        raise Corrupt(f"its gaps are {str(stream.dtype).removeprefix('torch.')}{list(stream.shape)}, not {kind.__name__}")
    gaps, escape = stream.numpy().astype(np.int64), int(np.iinfo(kind).max)
    ends = np.cumsum(gaps + (gaps != escape))
    covered = int(ends[-1]) if ends.size else 0
    if not covered <= record.positions < covered + escape:
        raise Corrupt(f"its gaps cover {covered} positions, its shape has {record.positions}")
    where: Array = ends[gaps != escape] - 1
    return where
