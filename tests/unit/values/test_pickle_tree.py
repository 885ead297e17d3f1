"""Pickles as data: everything that Python pickles comes back, nothing is imported or called, hostile ones end in one error."""

from __future__ import annotations

import argparse
import collections
import pickle
import random
import struct
from pathlib import Path

import pytest

from sparsify_cli.values.pickle_tree import Call, Name, NotAPickle, Opaque, Persistent, names_in, read_pickle, read_tree
from tests.torch_files import Hostile, mutated

PLAIN = {
    "text": "é\n'\\",
    "numbers": [0, 1, -1, 255, 70000, -(2**40), 2**70, 1.5, True, None],
    "tuples": [(), (1,), (1, 2), (1, 2, 3, 4)],
    3: {},
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(protocol: int) -> None:
    """Text, numbers, lists, tuples and mappings, in every protocol of Python; the pickle ends where it ends."""
    data = pickle.dumps(PLAIN, protocol)
    assert read_tree(data + b"more") == (PLAIN, len(data))


def test_pickles_follow_one_another() -> None:
    """Each begins where the one before it ends."""
    data = pickle.dumps(1, 2) + pickle.dumps(["a"], 4) + pickle.dumps((), 0)
    first, end = read_tree(data)
    second, last = read_tree(data, end)
    assert (first, second, read_tree(data, last)) == (1, ["a"], ((), len(data)))


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_calls_that_are_not_made(protocol: int) -> None:
    """An ordered dictionary keeps its items in order; a namespace its attributes; sets their members."""
    ordered, space, members = read_tree(pickle.dumps([collections.OrderedDict(b=1, a=2), argparse.Namespace(lr=0.1), {5}], protocol))[0]
    assert (ordered.name, ordered.items) == ("collections.OrderedDict", [("b", 1), ("a", 2)])
    assert (space.name, space.state) == ("argparse.Namespace", {"lr": 0.1})
    assert members == {5} or (members.name, members.args) == ("builtins.set", ([5],))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_run(protocol: int) -> None:
    """What a bomb would call is a name in the tree."""
    data = pickle.dumps(Hostile(), protocol)
    assert any(name.endswith("Path.touch") or name.endswith("getattr") for name in names_in(data))
    assert isinstance(read_tree(data)[0], Call)
    assert not Path("exploded").exists()


def test_what_is_thrown_away_is_named() -> None:
    """A call whose result is popped would run all the same, so its name counts."""
    data = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R0N."
    assert read_pickle(data).names == ("posix.system",)
    assert read_tree(data) == (None, len(data))


def test_what_a_loader_is_asked_for() -> None:
    """Identifiers of any kind, in both spellings."""
    found = read_pickle(b"(P17\nX\x01\x00\x00\x00aK\x02\x86Q\x85t.")
    assert [one.id for one in found.persistent] == ["17", ("a", 2)]
    assert isinstance(found.tree[0], Persistent)


def test_a_class_beside_its_source() -> None:
    """Torch before 1.6 asked its loader for classes; they are called by their names."""
    tree, _ = read_tree(b"\x80\x02(X\x06\x00\x00\x00modulecnet\nNet\nNNtQ)\x81}b.")
    assert (tree.name, tree.state) == ("net.Net", {})


def test_names_of_old_are_those_of_today() -> None:
    """Python 2 called its modules otherwise; `copyreg.__newobj__` stands for the class that it makes."""
    tree, _ = read_tree(b"ccopy_reg\n__newobj__\n(cnet\nNet\nI5\ntR.")
    assert (tree.name, tree.args) == ("net.Net", (5,))
    assert names_in(b"c__builtin__\nset\n.") == ("builtins.set",)


BROKEN = {
    "nothing": b"",
    "cut off": pickle.dumps(PLAIN, 2)[:-1],
    "no step": b"\x80\x02\xff.",
    "no mark": b"t.",
    "nothing to take": b"\x85.",
    "empty stack": b".",
    "memo": b"j\xff\xff\xff\x7f.",
    "long text": b"X\xff\xff\xff\xffabc.",
    "long text 8": b"\x8d" + b"\xff" * 8 + b"abc.",
    "negative length": b"T\xff\xff\xff\xffabc.",
    "long number": b"\x8b\xff\xff\xff\x7f.",
    "a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "endless line": b"I" + b"9" * 2_000_000,
    "a list as a key": b"}]Ns.",
    "odd items": b"}(Nu.",
    "items of a number": b"K\x01NNs.",
    "append to a number": b"K\x01Na.",
    "state of a list": b"]}b.",
    "call with a list": b"cos\nsystem\n]R.",
    "import of a number": b"K\x01K\x02\x93.",
    "buffer": b"\x97.",
    "quotes": b"S'abc\n.",
    "not utf-8": b"X\x01\x00\x00\x00\xff.",
    "hash of a list": b"\x8f(]\x90.",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_pickle(case: str) -> None:
    """Whatever is wrong is one kind of error."""
    with pytest.raises(NotAPickle):
        read_tree(BROKEN[case])


def test_a_large_index_of_the_memo_needs_no_memory() -> None:
    """Two thousand million lies beyond any list, and is a key like another."""
    assert read_tree(b"K\x05r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.")[0] == 5


def test_a_list_within_itself() -> None:
    """It is read, and is itself."""
    tree, _ = read_tree(b"]q\x00h\x00a.")
    assert tree[0] is tree


def test_deep_nests_are_read_and_forgotten() -> None:
    """Thirty thousand tuples, lists and calls around nothing: no recursion, neither reading nor forgetting."""
    nests = {"tuples": b"N" + b"\x85" * 30_000, "calls": b"N" + b")R" * 30_000, "lists": b"]" * 30_000 + b"a" * 29_999}
    for nest in nests.values():
        tree, _ = read_tree(nest + b".")
        assert isinstance(tree, tuple | list | Call)
        del tree


def test_keys_cannot_be_made_to_collide() -> None:
    """Tuples of -1 and -2 all have one hash, and so have multiples of 2**61 - 1; none of them is hashed by its value."""
    prime = 2**61 - 1
    numbers = b"".join(b"\x8a\x0b" + (prime * k).to_bytes(11, "little") + b"N" for k in range(1, 2_001))
    bits = [tuple(-1 - (k >> bit & 1) for bit in range(15)) for k in range(2_000)]
    tuples = b"".join(b"(" + b"".join(b"J" + struct.pack("<i", number) for number in key) + b"tN" for key in bits)
    for keys in (numbers, tuples):
        tree, _ = read_tree(b"}(" + keys + b"u.")
        assert len(tree) == 2_000
        assert all(isinstance(key, Opaque) for key in tree)


def test_mutations_end() -> None:
    """Six hundred mutations of pickles with calls, names and texts: a tree or the one error."""
    whole = [pickle.dumps([PLAIN, collections.OrderedDict(a=1), argparse.Namespace(b=2)], protocol) for protocol in (0, 2, 4)]
    read = 0
    for seed in range(600):
        try:
            read_pickle(mutated(whole[seed % 3], random.Random(seed)))
            read += 1
        except NotAPickle:
            continue
    assert 0 < read < 600


def test_a_name_is_equal_to_itself() -> None:
    """Names are values: two of the same text are one key."""
    assert len({Name("a.b"), Name("a.b"), Name("a.c")}) == 2
