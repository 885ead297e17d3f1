"""Packed forms: exact bytes, byte counts of the published formulas, the smallest form, and refusal of contradictions."""

import math

import numpy as np
import pytest
import torch

from sparsify_cli.values.packed import Corrupt, Record, decode, differing, encode, sizes, smallest

N = 65536


def sparse(density: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """N values of which round(density N), at random places, are not zero."""
    generator = torch.Generator().manual_seed(7)
    flat = torch.zeros(N)
    flat[torch.randperm(N, generator=generator)[: round(density * N)]] = 1.5
    return flat.reshape(256, 256).to(dtype)


def test_bitmask_bytes_by_hand() -> None:
    """Positions 0, 3 and 9 of ten give the bytes 0b00001001 and 0b00000010, lowest bit first."""
    tensor = torch.tensor([5.0, 0, 0, 6, 0, 0, 0, 0, 0, 7])
    entries = encode(tensor, "bitmask")
    assert entries["bitmask"].tolist() == [0b00001001, 0b00000010]
    assert entries["values"].tolist() == [5, 6, 7]


def test_gaps_by_hand() -> None:
    """One value after 3 zeros, one after 300 (an escape and 45), then 520 zeros: two escapes, 10 implied."""
    tensor = torch.zeros(3 + 1 + 300 + 1 + 520)
    tensor[3], tensor[304] = 1, 2
    entries = encode(tensor, "gaps8")
    assert entries["gaps"].tolist() == [3, 255, 45, 255, 255]
    assert entries["values"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("zeros", "stream"), [(0, [0]), (254, [254]), (255, [255, 0]), (256, [255, 1]), (510, [255, 255, 0]), (511, [255, 255, 1])]
)
def test_gap_of_an_exact_multiple_of_the_escape(zeros: int, stream: list[int]) -> None:
    """255 zeros need an escape and a gap of 0, never the escape alone."""
    tensor = torch.zeros(zeros + 1)
    tensor[-1] = 1
    entries = encode(tensor, "gaps8")
    assert entries["gaps"].tolist() == stream
    assert torch.equal(decode(Record("gaps8", "float32", (zeros + 1,)), entries), tensor)


@pytest.mark.parametrize("density", [0.5, 0.2, 0.1, 0.05, 0.01])
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_byte_counts_follow_the_published_formulas(density: float, dtype: torch.dtype, width: int) -> None:
    """Bitmap: N/8 + K e. Delta-8: K (e + 1) plus one byte for each escape, expected K q^255 / (1 - q^255)."""
    tensor, kept = sparse(density, dtype), round(density * N)
    found = sizes(tensor)
    assert (found["dense"], found["bitmask"]) == (N * width, N // 8 + kept * width)
    entries = {form: encode(tensor, form) for form in ("bitmask", "gaps8", "gaps16")}
    stored = {form: sum(entry.nbytes for entry in parts.values()) for form, parts in entries.items()}
    assert all(found[form] == size for form, size in stored.items() if form in found)
    escapes = stored["gaps8"] - kept * (width + 1)
    expected = kept * (1 - density) ** 255 / (1 - (1 - density) ** 255)
    assert abs(escapes - expected) <= 4 * math.sqrt(expected) + 1
    assert stored["gaps16"] == kept * (width + 2)


@pytest.mark.parametrize(
    ("density", "form"),
    [
        (1, "dense"),
        (0.98, "dense"),
        (0.95, "bitmask"),
        (0.5, "bitmask"),
        (0.2, "bitmask"),
        (0.1, "gaps8"),
        (0.05, "gaps8"),
        (0.01, "gaps8"),
        (0.001, "gaps16"),
        (0, "gaps16"),
    ],
)
def test_the_smallest_form_at_each_density(density: float, form: str) -> None:
    """For 32-bit values: 31/32 parts dense and bitmask from bitmask, 1/8 bitmask from gaps8, 0.27 % gaps8 from gaps16."""
    assert smallest(sparse(density)) == form


def test_smallest_beats_every_other_form() -> None:
    """No form that was not taken would have stored fewer bytes."""
    for density in (0.5, 0.2, 0.1, 0.05, 0.01, 0.002, 0.0005):
        tensor = sparse(density)
        stored = {form: sum(entry.nbytes for entry in encode(tensor, form).values()) for form in ("bitmask", "gaps8", "gaps16")}
        stored["dense"] = 4 * N
        assert stored[smallest(tensor)] == min(stored.values()), density


def test_a_small_tensor_stays_dense() -> None:
    """Ten values, nine of them zero, are not worth 200 bytes of header."""
    assert smallest(torch.eye(10)[0]) == "dense"


@pytest.mark.parametrize("form", ["bitmask", "gaps8", "gaps16"])
def test_bits_survive(form: str) -> None:
    """-0.0, infinities, subnormals and NaN payloads are values; only the all-zero bit pattern is dropped."""
    patterns = torch.tensor([0, -(2**31), 0x7F800000, 0x7FC01234, -0x3FEDCC, 1, 0, 0x3F800000], dtype=torch.int32)
    tensor = patterns.view(torch.float32)
    entries = encode(tensor, form)
    assert len(entries["values"]) == 6
    assert torch.equal(decode(Record(form, "float32", (8,)), entries).view(torch.int32), patterns)


def test_differing_counts_bits_not_equality() -> None:
    """0.0 and -0.0 differ, a NaN equals itself; another shape or nothing differs everywhere."""
    assert differing(torch.tensor([0.0, 1.0, math.nan]), torch.tensor([-0.0, 1.0, math.nan])) == 1
    assert differing(torch.ones(3), torch.ones(3, 1)) == 3
    assert differing(torch.ones(3), None) == 3


def test_contradictions_are_refused() -> None:
    """A lying shape, count, tail, type or dtype is refused before memory is taken for it."""
    mask, gaps = torch.tensor([0b101], dtype=torch.uint8), torch.tensor([0, 1], dtype=torch.uint8)
    two = torch.ones(2)
    huge = (2**20, 2**20)
    cases = [
        (Record("bitmask", "float32", huge), {"bitmask": mask, "values": two}, "cannot cover 1099511627776"),
        (Record("gaps8", "float32", huge), {"gaps": gaps, "values": two}, "cover 3 positions"),
        (Record("bitmask", "float32", (2,)), {"bitmask": mask, "values": two}, "marks position 2 of 2"),
        (Record("bitmask", "float32", (8,)), {"bitmask": mask, "values": torch.ones(3)}, "2 positions are marked but 3 values"),
        (Record("gaps8", "float32", (2,)), {"gaps": gaps, "values": two}, "cover 3 positions, its shape has 2"),
        (Record("gaps8", "float32", (3,)), {"gaps": gaps, "values": torch.ones(1)}, "2 positions are marked but 1 values"),
        (Record("gaps16", "float32", (3,)), {"gaps": gaps, "values": two}, "not uint16"),
        (Record("bitmask", "float16", (8,)), {"bitmask": mask, "values": two}, "its record says float16"),
        (Record("bitmask", "float32", (8,)), {"bitmask": mask.float(), "values": two}, "cannot cover"),
    ]
    for record, entries, sentence in cases:
        with pytest.raises(Corrupt, match=sentence):
            decode(record, entries)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"form": "dense", "dtype": "float32", "shape": [2]},
        {"form": "bitmask", "dtype": "float32", "shape": [-1]},
        {"form": "bitmask", "dtype": "float32", "shape": [True]},
        {"form": "bitmask", "dtype": "float32", "shape": [2**40, 2**40]},
    ],
)
def test_a_record_that_is_none_is_refused(value: object) -> None:
    """Anything but a known form, a dtype and a shape of plausible sizes is refused."""
    with pytest.raises(Corrupt, match="no form, dtype and shape"):
        Record.from_json(value)


def test_record_round_trip() -> None:
    """A record reads back what it wrote, and knows its positions."""
    record = Record("gaps8", "bfloat16", (2, 3, 5))
    assert Record.from_json(record.to_json()) == record
    assert record.positions == 30


def test_gaps16_little_endian() -> None:
    """65535 zeros before a value: an escape and 0, two bytes each."""
    tensor = torch.zeros(65536, dtype=torch.float16)
    tensor[-1] = 1
    entries = encode(tensor, "gaps16")
    assert entries["gaps"].numpy().dtype == np.uint16
    assert entries["gaps"].numpy().tolist() == [65535, 0]
