"""Zip archives: members where they lie, every copy of their checksums, and nothing believed."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values import zip_places
from sparsify_cli.values.layout import Check
from sparsify_cli.values.zip_places import check_of, content, members
from tests.torch_files import mutated

PARTS = {"a/one": b"first", "a/two": bytes(range(256)) * 8, "a/empty": b"", "ü/three": b"third"}


class Pipe(io.BytesIO):
    """A file that cannot go back, so that a zip archive in it has descriptors."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation


def archive(compression: int = zipfile.ZIP_STORED, file: io.BytesIO | None = None, wide: bool = False) -> Path:
    """A zip archive with the parts."""
    buffer = file or io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, data in PARTS.items():
            with made.open(name, "w", force_zip64=wide) as part:
                part.write(data)
    Path("a.zip").write_bytes(buffer.getvalue())
    return Path("a.zip")


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_members_lie_where_they_are_said_to(wide: bool, piped: bool) -> None:
    """Bytes and checksums of each member, found by offset; with 64-bit fields and with descriptors, whose checksum is a third copy."""
    path = archive(file=Pipe() if piped else None, wide=wide)
    data = path.read_bytes()
    found = members(path)
    assert list(found) == list(PARTS)
    for name, member in found.items():
        assert data[member.offset : member.offset + member.length] == content(path, member) == PARTS[name]
        assert {struct.unpack_from("<I", data, at)[0] for at in member.crc_at} == {zlib.crc32(PARTS[name])}
        assert len(member.crc_at) == (2 + (piped and not PARTS[name]) if not piped else len(member.crc_at))
    assert all(data.count(struct.pack("<I", zlib.crc32(PARTS[name]))) == len(found[name].crc_at) for name in ("a/one", "ü/three"))


def test_an_archive_of_torch() -> None:
    """Its data begin on multiples of 64 bytes, and its checksums are in a descriptor and in the directory."""
    torch.save({"w": torch.arange(100.0)}, "a.pt")
    data, found = Path("a.pt").read_bytes(), members(Path("a.pt"))
    assert data[found["a/data/0"].offset :][:400] == torch.arange(100.0).numpy().tobytes()
    assert found["a/data/0"].offset % 64 == 0
    assert data.count(struct.pack("<I", zlib.crc32(data[found["a/data/0"].offset :][:400]))) == len(found["a/data/0"].crc_at) == 2


def test_a_directory_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """More members than 16 bits count: the directory is read from its 64-bit record."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = archive()
    assert b"PK\x06\x06" in path.read_bytes()
    assert list(members(path)) == list(PARTS)


def test_compressed_members() -> None:
    """They are said to be, and decompressed up to a limit."""
    path = archive(zipfile.ZIP_DEFLATED)
    two = members(path)["a/two"]
    assert not two.stored
    assert content(path, two, limit=2048) == PARTS["a/two"]
    with pytest.raises(UnreadableFile, match="more than 2047 bytes"):
        content(path, two, limit=2047)


def test_a_bomb_is_not_unpacked() -> None:
    """A thousandfold bomb stops at the limit; a stored one is refused by its length."""
    Path("a.zip").write_bytes(b"")
    for compression, word in ((zipfile.ZIP_DEFLATED, "more than"), (zipfile.ZIP_STORED, "at most")):
        with zipfile.ZipFile("a.zip", "w", compression) as made:
            made.writestr("x/bomb", bytes(1 << 20))
        with pytest.raises(UnreadableFile, match=word):
            content(Path("a.zip"), members(Path("a.zip"))["x/bomb"], limit=1 << 16)


def test_a_check_covers_the_data() -> None:
    """Where the data lie and where their checksum stands."""
    one = members(archive())["a/one"]
    assert check_of("a.zip", one) == Check("a.zip", one.offset, 5, one.crc_at)


def changed(path: Path, at: int, new: bytes) -> None:
    """Overwrite bytes of a file."""
    data = bytearray(path.read_bytes())
    data[at : at + len(new)] = new
    path.write_bytes(data)


def entry(path: Path, number: int) -> int:
    """Where an entry of the directory begins."""
    data, at = path.read_bytes(), -1
    for _ in range(number + 1):
        at = data.index(b"PK\x01\x02", at + 1)
    return at


def end(path: Path) -> int:
    """Where the record at the end begins."""
    return path.read_bytes().rindex(b"PK\x05\x06")


DAMAGE = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "directory is missing"),
    "something before it": (lambda path: path.write_bytes(b"#!/bin/sh\n" + path.read_bytes()), "does not begin"),
    "bytes inserted": (lambda path: path.write_bytes(path.read_bytes()[:40] + b"xy" + path.read_bytes()[40:]), "not at byte"),
    "a length that lies": (lambda path: changed(path, entry(path, 0) + 20, struct.pack("<II", 10**6, 10**6)), "reaches past"),
    "two lengths": (lambda path: changed(path, entry(path, 0) + 24, b"\x04"), "both"),
    "an overlap": (lambda path: changed(path, entry(path, 1) + 42, struct.pack("<I", 0)), "reaches past|not at byte"),
    "another name": (lambda path: changed(path, 30, b"b"), "not at byte"),
    "encrypted": (lambda path: changed(path, entry(path, 0) + 8, b"\x01"), "encrypted"),
    "many members": (lambda path: changed(path, end(path) + 10, b"\xfe\xff"), "cannot hold"),
    "a directory elsewhere": (lambda path: changed(path, end(path) + 16, b"\x00\x00"), "not at byte|cannot hold"),
    "a long directory": (lambda path: changed(path, end(path) + 12, b"\xff\xff"), "reaches past"),
    "parts": (lambda path: changed(path, end(path) + 4, b"\x01"), "one part"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_contradiction_is_a_sentence(case: str) -> None:
    """What contradicts what, and the file."""
    damage, word = DAMAGE[case]
    path = archive()
    damage(path)
    with pytest.raises(UnreadableFile, match=f"a\\.zip is a damaged.*({word})"):
        members(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice() -> None:
    """Programs differ in which of the two they take, so it is refused."""
    with zipfile.ZipFile("a.zip", "w") as made:
        made.writestr("a/x", "1")
        made.writestr("a/x", "2")
    with pytest.raises(UnreadableFile, match=r"two members called 'a/x'"):
        members(Path("a.zip"))


def test_a_giant_directory_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is compared with a limit first."""
    monkeypatch.setattr(zip_places, "DIRECTORY_LIMIT", 100)
    with pytest.raises(UnreadableFile, match="at most 100"):
        members(archive())


def test_damaged_deflate() -> None:
    """Neither noise nor a stream without an end is taken for content."""
    path = archive(zipfile.ZIP_DEFLATED)
    two = members(path)["a/two"]
    changed(path, two.offset, b"\xff" * two.length)
    with pytest.raises(UnreadableFile, match="cannot be decompressed"):
        content(path, two)
    changed(path, two.offset, b"\x00")
    with pytest.raises(UnreadableFile, match=r"cannot be decompressed|without an end"):
        content(path, two)


def test_mutations() -> None:
    """A thousand mutations: members within the file, or one sentence."""
    path, read = archive(), 0
    whole = path.read_bytes()
    for seed in range(1000):
        path.write_bytes(mutated(whole, random.Random(seed)))
        try:
            found = members(path)
        except UnreadableFile:
            continue
        read += 1
        assert all(0 <= member.offset <= member.offset + member.length <= path.stat().st_size for member in found.values())
    assert 0 < read < 1000


def test_an_archive_within_an_archive() -> None:
    """Its members and checksums lie in the whole file, and nothing of it may reach behind its own end."""
    inner = archive().read_bytes()
    for cut in (0, 1, 40):
        with zipfile.ZipFile("outer.zip", "w") as made:
            made.writestr("before", "some")
            made.writestr("inner.zip", inner[: len(inner) - cut])
            made.writestr("behind", inner[len(inner) - cut :] + bytes(100))
        path = Path("outer.zip")
        within = members(path)["inner.zip"]
        if cut:
            with pytest.raises(UnreadableFile, match=r"The file 'inner.zip' inside outer.zip is a damaged zip archive"):
                members(path, within)
            continue
        data = path.read_bytes()
        for name, member in members(path, within).items():
            assert data[member.offset : member.offset + member.length] == content(path, member) == PARTS[name]
            assert len(member.crc_at) == 2
            assert {struct.unpack_from("<I", data, at)[0] for at in member.crc_at} == {zlib.crc32(PARTS[name])}
