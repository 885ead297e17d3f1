"""Which tensors share bytes: exactly, and without looking at every pair of bytes."""

from __future__ import annotations

import itertools
import random
import time

from sparsify_cli.values.layout import Place
from sparsify_cli.values.overlaps import meeting, overlaps, repeats_itself

STRIDES = (0, 1, 2, 3, 4, 6, 8, 12)


def bytes_by_hand(place: Place) -> list[int]:
    """Every byte of every element, one by one."""
    elements = itertools.product(*map(range, place.shape))
    starts = (place.offset + place.width * sum(i * s for i, s in zip(at, place.strides, strict=True)) for at in elements)
    return [start + byte for start in starts for byte in range(place.width)]


def some_place(dice: random.Random) -> Place:
    """A view of a small memory: columns of a matrix, or anything."""
    width, dtype = dice.choice([(1, "uint8"), (2, "float16"), (4, "float32")])
    if dice.random() < 0.5:
        return Place("f", dice.randrange(12) * width, dtype, (dice.randint(1, 4), dice.randint(1, 6)), (6, 1))
    shape = tuple(dice.randint(1, 4) for _ in range(dice.randint(1, 3)))
    return Place("f", dice.randrange(12) * width, dtype, shape, tuple(dice.choice(STRIDES) for _ in shape))


def test_what_is_shared_is_what_counting_bytes_says() -> None:
    """300 heaps of views: the same pairs, and the same of them hold the other whole."""
    dice = random.Random(0)
    for _ in range(300):
        places = dict(enumerate({some_place(dice) for _ in range(5)}))
        held = {name: set(bytes_by_hand(place)) for name, place in places.items()}
        expected = {(a, b): (held[a] >= held[b], held[b] >= held[a]) for a, b in itertools.permutations(held, 2) if held[a] & held[b]}
        found = overlaps({str(name): place for name, place in places.items()})
        told = {(int(o.first), int(o.second)): (o.holds_second, o.holds_first) for o in found}
        told |= {pair[::-1]: sides[::-1] for pair, sides in told.items()}
        assert told == expected


def test_a_tensor_that_repeats_its_numbers_is_known() -> None:
    """As counting its bytes says."""
    dice = random.Random(1)
    places = [some_place(dice) for _ in range(500)]
    repeated = [len(set(bytes_by_hand(place))) < place.nbytes for place in places]
    assert [repeats_itself(place) for place in places] == repeated
    assert {True, False} == set(repeated)


def test_names_at_one_place_meet() -> None:
    """Each of two names of a buffer meets the other, and the weight inside it."""
    flat, part, apart = Place("f", 0, "float32", (8,)), Place("f", 8, "float32", (2,)), Place("g", 0, "float32", (8,))
    places = {"flat": flat, "flat2": flat, "part": part, "apart": apart}
    assert meeting(["flat", "part", "apart"], places) == {"flat": {"flat2", "part"}, "part": {"flat", "flat2"}, "apart": set()}


def test_hundreds_of_interleaved_views_take_seconds() -> None:
    """300 windows of columns of a 4096 x 4096 matrix share nothing; 300 looser views of as much memory do, here and there."""
    begun = time.monotonic()
    windows = {str(i): Place("f", i * 13 * 4, "float32", (4096, 13), (4096, 1)) for i in range(300)}
    assert overlaps(windows) == []
    loose = {str(i): Place("f", i * 4, "float32", (233, 234), (69905, 300)) for i in range(300)}
    assert len(overlaps(loose)) == 295
    assert time.monotonic() - begun < 20
