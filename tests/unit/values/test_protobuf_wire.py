"""The wire format of protocol buffers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsify_cli.values.protobuf_wire import LENGTH, Field, Malformed, Reader, mapped


def read(raw: bytes, most: int = 100) -> list[Field]:
    """Every field of one message."""
    return list(Reader(raw, most).fields(0, len(raw)))


def test_the_four_wire_types_are_told_apart_and_payloads_are_located() -> None:
    """The documentation's examples: 150 in field 1, "testing" in field 2; then four and eight bytes."""
    raw = b"\x08\x96\x01" + b"\x12\x07testing" + b"\x1d\0\0\x80\x3f" + b"\x21\0\0\0\0\0\0\xf0\x3f"
    assert [(one.number, one.wire, one.value, one.start, one.end) for one in read(raw)] == [
        (1, 0, 150, 1, 3),
        (2, 2, 0, 5, 12),
        (3, 5, 0, 13, 17),
        (4, 1, 0, 18, 26),
    ]


def test_negative_numbers_are_ten_bytes_of_twos_complement() -> None:
    """-1 as int64 is nine times 0xff and a one."""
    (field,) = read(b"\x08" + b"\xff" * 9 + b"\x01")
    assert (field.signed, field.value) == (-1, 2**64 - 1)


def test_a_repeated_number_is_read_packed_and_not_packed() -> None:
    """3, 270 and 86942 packed are the documentation's 03 8e 02 9e a7 05."""
    reader = Reader(b"\x22\x06\x03\x8e\x02\x9e\xa7\x05\x20\x07")
    packed, single = reader.fields(0, 10)
    assert [*reader.varints(packed), *reader.varints(single)] == [3, 270, 86942, 7]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\x12\x07test", "claims 7 bytes, and 4 are left"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "and 0 are left"),
        (b"\x08\xff\xff", "a number does not end"),
        (b"\x08" + b"\xff" * 11, "a number does not end"),
        (b"\x1d\0\0", "claims 4 bytes"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x01", "numbered 0"),
        (b"\x08\x01" * 101, "more fields than any model"),
    ],
)
def test_damage_is_told_with_the_byte_it_is_at(raw: bytes, said: str) -> None:
    """Nothing that a message claims about itself is believed."""
    with pytest.raises(Malformed, match=said):
        read(raw)


def test_names_are_utf8_and_of_a_bounded_length() -> None:
    """A payload is copied only when it is a name."""
    reader = Reader(b"\x0a\x02\xc3\xa9")
    assert reader.text(next(reader.fields(0, 4))) == "é"
    with pytest.raises(Malformed, match="not UTF-8"):
        Reader(b"\x0a\x01\xff").text(Field(1, LENGTH, 0, 2, 3))
    with pytest.raises(Malformed, match="no name"):
        reader.text(Field(1, LENGTH, 0, 0, 2**17))


def test_an_empty_file_is_no_message(tmp_path: Path) -> None:
    """Nothing can be mapped of it."""
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(Malformed, match="empty"), mapped(path):
        raise AssertionError
