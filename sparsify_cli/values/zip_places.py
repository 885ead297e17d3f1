"""Zip archives as files in which every member lies somewhere: offsets, lengths, and where each copy of its checksum is.

The central directory is read here and not by `zipfile`, which does not say where in the file a checksum stands and which
forgives more than programs that map such files into memory do. Nothing that the archive claims is believed: every
member has to lie between its own header and the directory, no two may overlap, no name may come twice. An archive may be
a member of another one, stored as it is: then offsets are still those of the whole file.

Source: PKWARE, .ZIP File Format Specification (APPNOTE.TXT) 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.layout import Check
from sparsify_cli.values.strict_json import shown

LOCAL, CENTRAL, DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
END, END64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
LOCAL_SIZE, CENTRAL_SIZE, END_SIZE, END64_SIZE, LOCATOR64_SIZE = 30, 46, 22, 56, 20
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED, DESCRIBED = 0x0001, 0x0008
"""Bits of a member's flags: it is encrypted; a descriptor follows its data."""

DIRECTORY_LIMIT = 1 << 26
"""Bytes of a central directory: some 600,000 members; no checkpoint has more."""

CONTENT_LIMIT = 1 << 28
"""Bytes of a member that is read as a whole, unless the caller says another number."""

RATIO, SPARE = 32, 1 << 20
"""A member may have so many times the bytes of its archive when it is decompressed, and so many more; bombs have a thousand."""


@dataclass(frozen=True)
class Member:
    """One file inside a zip archive.

    Args:
        name: as the directory has it.
        offset: first byte of its data in the archive.
        length: bytes of its data in the archive (compressed, if it is).
        stored: True when its data are not compressed.
        crc_at: offsets in the archive of each copy of its CRC-32, 4 bytes little-endian.
    """

    name: str
    offset: int
    length: int
    stored: bool
    crc_at: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """What the central directory says about a member; `at` is where the directory says it, `header` where its local header is."""

    name: bytes
    at: int
    flags: int
    method: int
    crc: int
    length: int
    size: int
    header: int


@dataclass(frozen=True)
class _Window:
    """An archive that is a part of a file; what is read from it is counted from its own first byte."""

    file: BinaryIO
    start: int
    size: int

    def some(self, at: int, length: int) -> bytes:
        """The bytes from `at`, fewer where the archive ends."""
        self.file.seek(self.start + at)
        return self.file.read(max(0, min(length, self.size - at)))

    def all(self, at: int, length: int) -> bytes:
        """The bytes from `at`, every one of them."""
        data = self.some(at, length)
        if len(data) < length:
            raise _Contradiction(f"It ends at byte {at + len(data)}; {length - len(data)} more bytes are expected.")
        return data


class _Contradiction(ValueError):
    """What is wrong with an archive, as the second sentence of an error."""


def members(path: Path, within: Member | None = None) -> dict[str, Member]:
    """Every file inside a zip archive by name, in the order of its directory.

    Args:
        path: the archive.
        within: a member of it, stored; then the files inside this one are meant, where they lie in the whole file.

    Raises:
        UnreadableFile: truncated, contradictory, encrypted, in parts, or with bytes before its beginning.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _members(_Window(file, within.offset, within.length) if within else _Window(file, 0, size))
    except _Contradiction as error:
        raise damaged(path, str(error), within) from error
    except (OSError, struct.error) as error:
        raise damaged(path, f"It does not parse as a zip archive ({error}).", within) from error


def content(path: Path, member: Member, limit: int = CONTENT_LIMIT) -> bytes:
    """The bytes of one member, decompressed.

    Args:
        path: the archive.
        member: of it.
        limit: bytes, after decompression; more is an error, and no more than that is ever held.

    Raises:
        UnreadableFile: longer than `limit`, cut off, or compressed in another way than deflate.
    """
    if member.length > limit:
        raise damaged(path, f"Its member {member.name!r} has {member.length} bytes; at most {limit} are expected.")
    with path.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.length)
    if len(data) < member.length:
        raise damaged(path, f"Its member {member.name!r} is cut off after {len(data)} of {member.length} bytes.")
    return data if member.stored else _inflated(path, member, data, min(limit, RATIO * path.stat().st_size + SPARE))


def check_of(file: str, member: Member) -> Check:
    """The checksum that is to be renewed when the data of a stored member change.

    Args:
        file: name of the archive, relative to the layout's root.
        member: stored, not compressed.
    """
    return Check(file, member.offset, member.length, member.crc_at)


def damaged(path: Path, why: str, within: Member | None = None) -> UnreadableFile:
    """The error for an archive that contradicts itself, or for the one `within` it."""
    what = f"The file {shown(within.name)} inside {path}" if within else str(path)
    return UnreadableFile(f"{what} is a damaged zip archive.", why, "Copy or save the file again.")


def _inflated(path: Path, member: Member, data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise damaged(path, f"Its member {member.name!r} cannot be decompressed ({error}).") from error
    if len(plain) > limit:
        raise damaged(path, f"Its member {member.name!r} has more than {limit} bytes when decompressed.")
    if not stream.eof:
        raise damaged(path, f"Its member {member.name!r} is compressed data without an end.")
    return plain


def _members(window: _Window) -> dict[str, Member]:
    if window.some(0, len(LOCAL)) != LOCAL:
        raise _Contradiction("It does not begin with a member.")
    start, length, count = _directory(window)
    entries = list(_entries(window.all(start, length), start, count))
    if not entries:
        raise _Contradiction("Its directory names no member.")
    _require_apart(entries, start)
    found: dict[str, Member] = {}
    for entry in entries:
        member = _member(window, entry, start)
        if member.name in found:
            raise _Contradiction(f"It holds two members called {member.name!r}.")
        found[member.name] = member
    return found


def _directory(window: _Window) -> tuple[int, int, int]:
    """Offset, bytes and number of entries of the central directory."""
    tail_at = max(0, window.size - END_SIZE - FULL16)
    tail = window.all(tail_at, window.size - tail_at)
    found = tail.rfind(END, 0, len(tail) - END_SIZE + len(END))
    if found < 0:
        raise _Contradiction(f"Its directory is missing, so it was probably cut off; it has {window.size} bytes.")
    at = tail_at + found
    disk, disk_of, _, count, length, start = struct.unpack_from("<4xHHHHII", tail, found)
    if FULL32 in (length, start) or FULL16 in (disk, count):
        at, disk, disk_of, count, length, start = _end64(window, at) or (at, disk, disk_of, count, length, start)
    if disk or disk_of:
        raise _Contradiction("It is one part of several.")
    _require_directory(start, length, count, at)
    return start, length, count


def _end64(window: _Window, end: int) -> tuple[int, int, int, int, int, int] | None:
    """The same from the 64-bit record: its offset, two numbers of parts, entries, bytes, offset; None where there is none."""
    if end < LOCATOR64_SIZE + END64_SIZE:
        return None
    locator = window.all(end - LOCATOR64_SIZE, LOCATOR64_SIZE)
    if not locator.startswith(LOCATOR64):
        return None
    (at,) = struct.unpack_from("<8xQ", locator)
    if at > end - LOCATOR64_SIZE - END64_SIZE:
        raise _Contradiction(f"Its 64-bit directory is said to end at byte {at}, behind the end.")
    record = window.all(at, END64_SIZE)
    if not record.startswith(END64):
        raise _Contradiction(f"Its 64-bit directory is not at byte {at}, where it is said to be.")
    disk, disk_of, _, count, length, start = struct.unpack_from("<16xIIQQQQ", record)
    return at, disk, disk_of, count, length, start


def _require_directory(start: int, length: int, count: int, end: int) -> None:
    if start + length > end:
        raise _Contradiction(f"Its directory of {length} bytes at byte {start} reaches past byte {end}.")
    if length > DIRECTORY_LIMIT:
        raise _Contradiction(f"Its directory has {length} bytes; at most {DIRECTORY_LIMIT} are expected.")
    if count * CENTRAL_SIZE > length:
        raise _Contradiction(f"Its directory of {length} bytes cannot hold {count} members.")


def _entries(directory: bytes, start: int, count: int) -> Iterator[_Entry]:
    at = 0
    for number in range(count):
        if directory[at : at + 4] != CENTRAL or len(directory) < at + CENTRAL_SIZE:
            raise _Contradiction(f"Entry {number} of its directory is not at byte {start + at}, where it should be.")
        entry, after = _entry(directory, at, start)
        yield entry
        at = after


def _entry(directory: bytes, at: int, start: int) -> tuple[_Entry, int]:
    flags, method, crc, length, size = struct.unpack_from("<8xHH4xIII", directory, at)
    name, extra, comment, disk, header = struct.unpack_from("<28xHHHH6xI", directory, at)
    extra_at = at + CENTRAL_SIZE + name
    after = extra_at + extra + comment
    if after > len(directory):
        raise _Contradiction(f"Its directory is cut off at byte {start + len(directory)}.")
    if flags & ENCRYPTED or disk not in (0, FULL16):
        raise _Contradiction("A member is encrypted, or lies in another part.")
    size, length, header = _wide((size, length, header), directory[extra_at : extra_at + extra])
    return _Entry(directory[at + CENTRAL_SIZE : extra_at], start + at, flags, method, crc, length, size, header), after


def _wide(values: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Size, length and header offset, each taken from the 64-bit field where it did not fit 32 bits."""
    if FULL32 not in values:
        return values
    field = _extra_field(extra, 1)
    wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
    first, second, third = (next(wide, value) if value == FULL32 else value for value in values)
    return first, second, third


def _extra_field(extra: bytes, kind: int) -> bytes:
    at = 0
    while at + 4 <= len(extra):
        found, length = struct.unpack_from("<HH", extra, at)
        if found == kind:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _require_apart(entries: list[_Entry], end: int) -> None:
    """No member reaches into the next or into the directory; the cheapest test there is against overlapping bombs."""
    ordered = sorted(entries, key=lambda entry: entry.header)
    limits = [*(entry.header for entry in ordered[1:]), end]
    for entry, limit in zip(ordered, limits, strict=True):
        if entry.header + LOCAL_SIZE + len(entry.name) + entry.length > limit:
            what = f"Its member {_text(entry.name)!r} of {entry.length} bytes at byte {entry.header}"
            raise _Contradiction(f"{what} reaches past byte {limit}, where the next thing begins.")


def _member(window: _Window, entry: _Entry, end: int) -> Member:
    name = _text(entry.name)
    header = window.all(entry.header, LOCAL_SIZE + len(entry.name))
    if not header.startswith(LOCAL) or header[LOCAL_SIZE:] != entry.name:
        raise _Contradiction(f"The header of its member {name!r} is not at byte {entry.header}, where the directory says.")
    crc, name_length, extra_length = struct.unpack_from("<14xI8xHH", header)
    offset = entry.header + LOCAL_SIZE + name_length + extra_length
    if name_length != len(entry.name) or offset + entry.length > end:
        raise _Contradiction(f"Its member {name!r} of {entry.length} bytes at byte {offset} reaches past byte {end}.")
    if entry.method == 0 and entry.length != entry.size:
        raise _Contradiction(f"Its member {name!r} is not compressed, and has both {entry.length} and {entry.size} bytes.")
    copies = [entry.at + 16, *([entry.header + 14] if crc == entry.crc else []), *_descriptor(window, entry, offset + entry.length)]
    crc_at = tuple(sorted(window.start + at for at in copies))
    return Member(name, window.start + offset, entry.length, entry.method == 0, crc_at)


def _descriptor(window: _Window, entry: _Entry, at: int) -> list[int]:
    """Where the checksum stands in the descriptor behind a member's data; it may begin with a signature or not."""
    if not entry.flags & DESCRIBED:
        return []
    data = window.some(at, 8)
    skip = 4 if data.startswith(DESCRIPTOR) else 0
    return [at + skip] if data[skip : skip + 4] == struct.pack("<I", entry.crc) else []


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437")
