"""Protocol buffers read from their wire format: field by field, in place, without a schema and without believing a length.

A message is a run of fields; each begins with a varint that holds its number and its wire type: 0 varint, 1 eight bytes,
2 a varint length and as many bytes (text, bytes, inner messages, packed numbers), 5 four bytes. Groups (3 and 4, long
deprecated) are refused. Payloads are never copied: a field tells where its own lies, so a file of many gigabytes is
walked through by its headers alone, over a memory map.

Source: Protocol Buffers documentation, "Encoding"; what is not needed to find tensors is left out.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5
MOST_FIELDS = 3_000_000
"""Fields that are read of one file; real models of a hundred thousand nodes have about two million."""
LONGEST_TEXT = 2**16
"""Bytes of a name."""


class Malformed(ValueError):
    """The bytes are no message; the text says where and why."""


class Field(NamedTuple):
    """One field of a message.

    Args:
        number: which one, >= 1.
        wire: its wire type.
        value: of a varint, unsigned; 0 for the others.
        start, end: where its payload lies in the buffer.
    """

    number: int
    wire: int
    value: int
    start: int
    end: int

    @property
    def signed(self) -> int:
        """The varint read as int64."""
        return self.value - 2**64 if self.value >= 2**63 else self.value

    @property
    def length(self) -> int:
        """Bytes of its payload."""
        return self.end - self.start


class Reader:
    """Reads messages of one buffer; the number of fields it will read in all is bounded.

    Args:
        buffer: the whole file.
        most: fields it reads before it gives up.
    """

    def __init__(self, buffer: bytes | mmap.mmap, most: int = MOST_FIELDS) -> None:
        self._buffer = buffer
        self._left = most
        self.size = len(buffer)

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message that lies in [start, end).

        Raises:
            Malformed: a field is cut off, of an unknown wire type, or reaches beyond the end; or there are too many.
        """
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Malformed("it has more fields than any model")
            tag, behind = self._varint(at, end)
            field = self._field(tag >> 3, tag & 7, behind, end)
            if field.end > end:
                raise Malformed(f"at byte {at} field {tag >> 3} claims {field.length} bytes, and {end - field.start} are left")
            yield field
            at = field.end

    def text(self, field: Field) -> str:
        """The payload of a field as text.

        Raises:
            Malformed: it is no text, or longer than any name.
        """
        if field.wire != LENGTH or field.length > LONGEST_TEXT:
            raise Malformed(f"at byte {field.start} there is no name in field {field.number}")
        try:
            return bytes(self._buffer[field.start : field.end]).decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"at byte {field.start} a name is not UTF-8") from error

    def varints(self, field: Field) -> Iterator[int]:
        """The int64 values of a repeated field, whether it holds one or is packed.

        Raises:
            Malformed: it holds something else.
        """
        if field.wire == VARINT:
            yield field.signed
            return
        if field.wire != LENGTH:
            raise Malformed(f"at byte {field.start} field {field.number} holds no integers")
        at = field.start
        while at < field.end:
            value, at = self._varint(at, field.end)
            yield value - 2**64 if value >= 2**63 else value

    def _field(self, number: int, wire: int, at: int, end: int) -> Field:
        """A field whose tag was read; its payload may claim to reach beyond the end."""
        if not 0 < number < 2**29:
            raise Malformed(f"at byte {at} there is a field numbered {number}")
        if wire == LENGTH:
            length, at = self._varint(at, end)
            return Field(number, wire, 0, at, at + length)
        if wire == VARINT:
            value, behind = self._varint(at, end)
            return Field(number, wire, value, at, behind)
        if wire in (EIGHT, FOUR):
            return Field(number, wire, 0, at, at + (8 if wire == EIGHT else 4))
        raise Malformed(f"at byte {at} field {number} is of the wire type {wire}")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The varint at `at`, of at most 64 bits, and the first byte behind it."""
        if at < end and self._buffer[at] < 128:
            return self._buffer[at], at + 1
        value = shift = 0
        for place in range(at, min(end, at + 10)):
            byte = self._buffer[place]
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (2**64 - 1), place + 1
            shift += 7
        raise Malformed(f"at byte {at} a number does not end")


@contextmanager
def mapped(path: Path, most: int = MOST_FIELDS) -> Iterator[Reader]:
    """A reader over a file, which is mapped and not loaded, for at most `most` fields.

    Raises:
        Malformed: the file is empty.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise Malformed("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield Reader(buffer, most)
