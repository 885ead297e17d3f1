"""Nests in one file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import is_nest_file, read_nest, write_nest

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


@pytest.mark.parametrize("about", [{}, {"sparsities": "x"}, {"sparsities": "[]"}, {"sparsities": '["1"]'}])
def test_damage_is_a_sentence(about):
    """A header without levels, or weights that do not fit their levels."""
    save_file({"index/w": torch.ones(2, dtype=torch.uint8)}, PATH, metadata={"schema": "sparsify/nest/1", **about})
    with pytest.raises(UnreadableFile, match="is damaged"):
        read_nest(PATH)


def stored(*, sparsities='["1/2", "0"]', without=(), **changes):
    """A file of two levels over 1,000 weights, 500 of them in each, with changes; `__` in a name stands for a slash."""
    index = torch.cat([torch.full((500,), 1, dtype=torch.uint8), torch.full((500,), 2, dtype=torch.uint8)])
    tensors = {"index/w": index, "weights/w": torch.ones(1000), "side/1/b": torch.ones(2), "side/2/b": torch.zeros(2)}
    tensors |= {name.replace("__", "/"): value for name, value in changes.items()}
    kept = {name: value for name, value in tensors.items() if name not in without}
    save_file(kept, PATH, metadata={"schema": "sparsify/nest/1", "sparsities": sparsities})
    return PATH


def levels(first, second, dtype=torch.uint8):
    """Levels of 1,000 weights: so many of level 1, so many of level 2, the rest in none."""
    return torch.tensor([1] * first + [2] * second + [0] * (1000 - first - second), dtype=dtype)


@pytest.mark.parametrize(
    "sparsities",
    [
        *('["1/0", "0"]', '["x", "0"]', '"10"', '{"1/2": 1}', "null", "[0.5, 0]", "[null]", '["nan"]', '["-1/2"]', '["1e999999999"]'),
        *('["0", "1/2"]', '["1/2", "1/2"]', '["3/2", "0"]', '["1/2", "-1/2"]', "[" * 9999, '["' + "9" * 5000 + '"]'),
    ],
    ids=range(16),
)
def test_sparsities_that_cannot_be_are_refused(sparsities):
    """Only a list of exact fractions in [0, 1], strictly falling, says which levels there are."""
    with pytest.raises(UnreadableFile, match=r"is damaged\. Its (header|sparsities)"):
        read_nest(stored(sparsities=sparsities))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"index__w": levels(500, 500, torch.int64)}, "levels of w are int64"),
        ({"index__w": levels(500, 500).float()}, "levels of w are float32"),
        ({"index__w": levels(500, 500) + 1}, "A weight of w is of level 3, of 2"),
        ({"index__w": levels(500, 500).reshape(10, 100)}, r"uint8 \[10, 100\].*\[1000\]"),
        ({"weights__w": torch.ones(999)}, r"the shape \[999\]"),
        ({"weights__v": torch.ones(3)}, "levels of 1 tensors and the weights of 2"),
        ({"without": ("weights/w",)}, "levels of 1 tensors and the weights of 0"),
        ({"without": ("index/w",)}, "levels of 0 tensors and the weights of 1"),
        ({"without": ("index/w", "weights/w")}, "levels of 0 tensors and the weights of 0"),
        ({"without": ("side/2/b",)}, "side state of level 2"),
        ({"side__1__c": torch.ones(1)}, "side state of level 2"),
        ({"side__2__b": torch.ones(3)}, "side state of level 2"),
        ({"side__3__b": torch.ones(2)}, "1 of its tensors belong to none of its 2 levels"),
        ({"index__w": levels(0, 1000)}, r"Level 1 of sparsity 0\.5 holds 0 of 1000"),
        ({"index__w": levels(565, 435)}, r"Level 1 of sparsity 0\.5 holds 565 of 1000"),
        ({"index__w": levels(500, 435)}, "Level 2 of sparsity 0 holds 935 of 1000"),
    ],
)
def test_contents_that_contradict_each_other_are_refused(changes, why):
    """Levels, weights, side state and sparsities have to fit; the reason names what does not."""
    with pytest.raises(UnreadableFile, match=rf"is damaged\. .*{why}"):
        read_nest(stored(**changes))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, [500, 1000]),
        ({"index__w": levels(564, 436)}, [564, 1000]),
        ({"index__w": levels(436, 500)}, [436, 936]),
        ({"without": ("side/1/b", "side/2/b")}, [500, 1000]),
        ({"sparsities": '["0.5", "0"]'}, [500, 1000]),
    ],
)
def test_a_sound_file_is_read(changes, kept):
    """Rounding to a block of 64 weights is no contradiction, and a network may have no side state."""
    nest, _ = read_nest(stored(**changes))
    assert [nest.masks(level).kept for level in (1, 2)] == kept


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
