"""Nests in one file."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import read_levels, read_nest, write_nest
from sparsify_cli.values.nest_plan import header_digest, is_nest_file, read_plan
from sparsify_cli.values.ranges import ranges
from sparsify_cli.values.safetensors_header import read_header, write_header

PATH = Path("nest.safetensors")


def test_a_nest_comes_back():
    """Levels, sparsities (thirds too) and the side state of every level, types included."""
    sparsities = (Fraction(95, 100), Fraction(1, 3), Fraction(0))
    index = {"a.weight": torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8), "b/odd name": torch.tensor([3], dtype=torch.uint8)}
    side = tuple({"bn.mean": torch.tensor([float(i)]), "bn.num_batches_tracked": torch.tensor(i)} for i in range(3))
    weights = {name: torch.arange(1.0, value.numel() + 1).reshape(value.shape) for name, value in index.items()}
    write_nest(PATH, Nest(sparsities, index, side), weights)
    found, last = read_nest(PATH)
    assert last["a.weight"].tolist() == [[0.0, 2.0], [3.0, 4.0]]
    assert float(last["bn.mean"]) == 2.0
    assert found.sparsities == sparsities
    assert found.index.keys() == index.keys() and all(torch.equal(found.index[name], index[name]) for name in index)
    for mine, theirs in zip(side, found.side, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


def test_ten_levels_do_not_mix():
    """The side of level 1 is not that of level 10."""
    index = {"w": torch.zeros(1, dtype=torch.uint8)}
    nest = Nest(tuple(Fraction(20 - i, 20) for i in range(11)), index, tuple({"bias": torch.tensor([float(i)])} for i in range(11)))
    write_nest(PATH, nest, {"w": torch.ones(1)})
    assert [float(side["bias"]) for side in read_nest(PATH)[0].side] == [float(i) for i in range(11)]


def test_a_nest_file_is_told_from_others():
    """Only a file with our schema counts; a missing, damaged or foreign one does not."""
    assert not is_nest_file(PATH)
    save_file({"w": torch.ones(2)}, PATH)
    assert not is_nest_file(PATH)
    PATH.write_bytes(b"nothing")
    assert not is_nest_file(PATH)
    write_nest(PATH, Nest((Fraction(1, 2),), {"w": torch.tensor([1, 0], dtype=torch.uint8)}, ({},)), {"w": torch.ones(2)})
    assert is_nest_file(PATH)


NEST = Nest(
    (Fraction(1, 2), Fraction(0)),
    {"w": torch.cat([torch.full((500,), 1, dtype=torch.uint8), torch.full((500,), 2, dtype=torch.uint8)])},
    ({"b": torch.ones(2)}, {"b": torch.zeros(2)}),
)


def stored(drop: str = "", **changes: str) -> Path:
    """A file of two levels over 1,000 weights, 500 of them in each, with other words in its header, or without a tensor."""
    write_nest(PATH, NEST, {"w": torch.arange(1000.0)})
    header = read_header(PATH)
    data = PATH.read_bytes()
    kept = {name: place for name, place in header.places.items() if name != drop}
    entries = [(name, place.dtype, place.shape) for name, place in kept.items()]
    body = b"".join(data[place.offset : place.end] for place in kept.values())
    about = {**header.metadata, **changes}
    PATH.write_bytes(write_header(entries, {**about, "header": header_digest(entries, about)}) + body)
    return PATH


def codes(first: tuple[int, ...], second: tuple[int, ...]) -> str:
    """The codes of one tensor in two levels."""
    return json.dumps([[first], [second]])


def test_a_bit_that_turned_over_in_the_header_is_found():
    """Wherever it is, without the folder's manifest; in the padding behind it nothing is said."""
    write_nest(PATH, NEST, {"w": torch.arange(1000.0)})
    data = bytearray(PATH.read_bytes())
    length = len(data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip())
    for byte in range(8, 8 + length, 7):
        broken = bytearray(data)
        broken[byte] ^= 1 << byte % 7
        PATH.write_bytes(broken)
        with pytest.raises(UnreadableFile):
            read_nest(PATH)


def test_the_file_is_sound_as_it_is():
    """The helper changes nothing by itself."""
    nest, last = read_nest(stored())
    assert torch.equal(nest.index["w"], NEST.index["w"])
    assert torch.equal(last["w"], torch.arange(1000.0))


@pytest.mark.parametrize(
    "sparsities",
    [
        *('["1/0", "0"]', '["x", "0"]', '"10"', '{"1/2": 1}', "null", "[0.5, 0]", "[null]", '["nan"]', '["-1/2"]', '["1e999999999"]'),
        *('["0", "1/2"]', '["1/2", "1/2"]', '["3/2", "0"]', '["1/2", "-1/2"]', "[" * 9999, '["' + "9" * 5000 + '"]', "x", "[]"),
    ],
    ids=range(18),
)
def test_sparsities_that_cannot_be_are_refused(sparsities):
    """Only a list of exact fractions in [0, 1], strictly falling, says which levels there are."""
    with pytest.raises(UnreadableFile, match=r"is damaged\. Its (header|sparsities)"):
        read_nest(stored(sparsities=sparsities))


@pytest.mark.parametrize(
    ("drop", "changes", "why"),
    [
        ("", {"weights": "x"}, "does not say what its levels hold"),
        ("", {"weights": '[["w", "float31", [1000]]]'}, "does not say what its levels hold"),
        ("", {"weights": '[["w", "float32", [-1]]]'}, "does not say what its levels hold"),
        ("", {"weights": '[["w", "float32", [1000], 1]]'}, "does not say what its levels hold"),
        ("", {"weights": "[]", "codes": "[[], []]"}, "0 tensors' weights"),
        ("", {"weights": '[["w", "float32", [1000]], ["w", "float32", [1000]]]'}, "2 tensors' weights"),
        ("", {"weights": '[["w", "float32", [1001]]]'}, "level 2 does not hold .* too early"),
        ("", {"weights": '[["w", "float32", [99999999999]]]'}, "99,999,999,999 weights"),
        ("", {"weights": '[["w", "float64", [1000]]]'}, "level 1 does not hold"),
        ("", {"side": '[["b", "float32", [4000]]]'}, "level 1 does not hold .* too early"),
        ("", {"side": '[["w", "float32", [2]]]'}, "names a tensor twice"),
        ("", {"sparsities": '["1/2", "1/4", "0"]'}, "does not say what its levels hold"),
        ("", {"sparsities": '["0"]'}, "does not say what its levels hold"),
        ("", {"sparsities": '["1/3", "0"]'}, "Level 1 of sparsity 0.333333 holds 500 of 1000"),
        ("", {"codes": "[[[0, 500, 1, 125]]]"}, "It says of 1 levels"),
        ("", {"codes": codes((0, 500, 1, 125), (-1, 0, 0, 0))}, "does not say what its levels hold"),
        ("", {"codes": codes((0, 501, 1, 125), (0, 0, 0, 0))}, "level 1 does not hold"),
        ("", {"codes": codes((9, 500, 1, 63), (0, 0, 0, 0))}, "level 1 does not hold"),
        ("2/weights/float32", {}, "level 2 does not hold"),
        ("1/side/float32", {}, "level 1 does not hold"),
    ],
    ids=range(20),
)
def test_contents_that_contradict_each_other_are_refused(drop, changes, why):
    """Header, levels, weights, side state and sparsities have to fit; the reason names what does not."""
    with pytest.raises(UnreadableFile, match=rf"is damaged\. .*({why})"):
        read_nest(stored(drop=drop, **changes))


def test_a_file_cut_short_is_refused_at_any_length():
    """Never a wrong network: a sentence."""
    whole = stored().read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        PATH.write_bytes(whole[:length])
        with pytest.raises(UnreadableFile):
            read_nest(PATH)


def test_the_same_nest_is_the_same_file():
    """Byte for byte."""
    first = stored().read_bytes()
    assert stored().read_bytes() == first


def test_a_level_is_a_prefix():
    """What lies behind a level is not needed to read it: here it is overwritten."""
    path = stored()
    with ranges(path) as source:
        plan = read_plan(source)
        head = source.read
        nest, state = read_levels(source, plan, 1)
    assert head == plan.start
    assert source.read == plan.ends[0]
    assert source.requests == 3
    data = bytearray(path.read_bytes())
    data[plan.ends[0] :] = b"\xff" * (len(data) - plan.ends[0])
    path.write_bytes(bytes(data))
    with ranges(path) as source:
        again, same = read_levels(source, read_plan(source), 1)
    assert again.levels == nest.levels == 1
    assert all(torch.equal(state[name], same[name]) for name in ("w", "b"))
    assert torch.equal(state["w"], torch.where(torch.arange(1000) < 500, torch.arange(1000.0), 0))


def test_size_is_that_of_the_weights_and_their_places():
    """20,000 weights in three levels: 4 bytes each, and places within 5 % of their entropy; the header is small."""
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    index = torch.where(draws < 0.05, 1, torch.where(draws < 0.2, 2, 3)).to(torch.uint8)
    sparsities = (Fraction(95, 100), Fraction(8, 10), Fraction(0))
    write_nest(PATH, Nest(sparsities, {"w": index}, ({"b": torch.ones(4)},) * 3), {"w": draws})

    def entropy(p: float, n: float) -> float:
        return -n * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8

    places = entropy(0.05, 20_000) + entropy(0.15 / 0.95, 19_000)
    assert PATH.stat().st_size <= 80_000 + 1.05 * places + 48 + 1200


def test_half_and_double_precision_lie_side_by_side():
    """Types of weights and side state are kept, also odd counts of two bytes before others of four."""
    index = {"a": torch.tensor([1, 2, 1], dtype=torch.uint8), "c": torch.tensor([1, 2], dtype=torch.uint8)}
    weights = {"a": torch.tensor([1.5, 2.5, 3.5], dtype=torch.bfloat16), "c": torch.tensor([1e-300, 2.0], dtype=torch.float64)}
    sides = tuple({"n": torch.tensor(i), "h": torch.tensor([i, 2.0, 3.0], dtype=torch.float16)} for i in (7, 8))
    write_nest(PATH, Nest((Fraction(2, 5), Fraction(0)), index, sides), weights)
    nest, last = read_nest(PATH)
    assert all(torch.equal(last[name], weights[name]) and last[name].dtype == weights[name].dtype for name in weights)
    assert [int(side["n"]) for side in nest.side] == [7, 8]
    assert nest.side[0]["h"].dtype == torch.float16
    assert nest.side[0]["h"].tolist() == [7.0, 2.0, 3.0]


def test_other_tools_read_the_numbers():
    """It is a safetensors file: the library finds the tensors of each level."""
    found = load_file(stored())
    assert sorted(found) == ["1/places", "1/side/float32", "1/weights/float32", "2/places", "2/side/float32", "2/weights/float32"]
    assert torch.equal(found["1/weights/float32"], torch.arange(500.0))


def test_rounding_is_a_hundredth_of_a_large_network():
    """Of 10,000 weights 100 may be off, 101 not."""
    for off, sound in ((100, True), (101, False)):
        index = torch.zeros(10_000, dtype=torch.uint8)
        index[: 5000 + off] = 1
        write_nest(PATH, Nest((Fraction(1, 2),), {"w": index}, ({},)), {"w": torch.ones(10_000)})
        if sound:
            assert read_nest(PATH)[0].masks(1).kept == 5100
        else:
            with pytest.raises(UnreadableFile, match="holds 5101 of 10000"):
                read_nest(PATH)
