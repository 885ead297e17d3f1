"""Tables in the pickles of torch checkpoints: found wherever scripts put them, every tensor held against its storage."""

from __future__ import annotations

import argparse
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify_cli.errors import UnsafePickle
from sparsify_cli.values import torch_tables
from sparsify_cli.values.layout import Place
from sparsify_cli.values.pickle_tree import Call, Name, Persistent, read_tree
from sparsify_cli.values.torch_names import HARMLESS, require_harmless
from sparsify_cli.values.torch_tables import Contradiction, Extent, find, summary, tensor_reader

KIND = Name("torch.FloatStorage")
V2, V3 = Name("torch._utils._rebuild_tensor_v2"), Name("torch._utils._rebuild_tensor_v3")


def tensor(key: str = "0", start: int = 0, sizes: tuple = (2, 3), strides: tuple = (3, 1), kind: Name = KIND, numel: int = 6) -> Call:
    """A tensor as a pickle has it."""
    return Call(V2, (Persistent(("storage", kind, key, "cpu", numel)), start, sizes, strides, False, Call(Name("collections.OrderedDict"))))


def found(tree: Any) -> Any:
    """What is found in a tree; storage k lies at byte 1000 * (k + 1) and has 24 bytes."""
    return find(tree, tensor_reader("m.pt", lambda storage: Extent(1000 * (int(storage.key) + 1), 24)))


def names(tree: Any) -> dict[tuple[str, ...], list[str]]:
    """The tables of a tree and their names."""
    return {keys: list(table) for keys, table in found(tree).tables.items()}


def ordered(**items: Any) -> Call:
    """An ordered dictionary as a pickle has it."""
    return Call(Name("collections.OrderedDict"), (), None, {"_metadata": {}}, list(items.items()))


def test_the_place_of_a_tensor() -> None:
    """File, byte of element 0 (4 bytes a number behind the start of the storage), type, sizes; strides only when they say something."""
    plain = tensor(start=2, sizes=(2, 2), strides=(2, 1))
    turned = tensor("4", sizes=(3, 2), strides=(1, 3))
    assert found({"a": plain, "b": turned}).tables == {
        (): {"a": Place("m.pt", 1008, "float32", (2, 2)), "b": Place("m.pt", 5000, "float32", (3, 2), (1, 3))}
    }


def test_tables_are_found_wherever_they_are() -> None:
    """At the top, under keys of text and number, within a table, in ordered dictionaries; in the order of the file."""
    tree = {"net": ordered(w=tensor(), head={"v": tensor("1")}), 7: {"inner": {"u": tensor("2")}}, "top": tensor("3"), "epoch": 3}
    assert {keys: list(table) for keys, table in found(tree).tables.items()}[("net", "head")] == ["v"]
    assert set(names(tree)) == {(), ("net",), ("net", "head"), ("7", "inner")}
    assert found(tree).others == {"epoch": "int 3"}


def test_a_list_of_mappings_is_one_table() -> None:
    """A cascade saves a mapping a stage: names begin with the number of the stage."""
    assert names({"state_dict": [{"w": tensor()}, {"w": tensor("1"), "b": tensor("2")}]}) == {("state_dict",): ["0.w", "1.w", "1.b"]}
    assert names([{"model": {"w": tensor()}}]) == {("0", "model"): ["w"]}


def test_other_entries_are_told_in_a_few_words() -> None:
    """Numbers with their value, containers with their length, objects with their class; the optimizer's tensors are no table."""
    space = Call(Name("argparse.Namespace"), (), None, {"lr": 0.1})
    tree = {"w": tensor(), "epoch": 12, "loss": 0.5, "name": "x", "args": space, "optimizer": {"state": {"m": tensor("1")}, "groups": []}}
    assert found(tree).others == {"epoch": "int 12", "loss": "float", "name": "str", "args": "Namespace", "optimizer": "mapping of 2"}
    assert found([1, 2]).others == {"": "list of 2"}
    assert summary(None) == "nothing"
    assert summary(10**5000) == "int"


@pytest.mark.parametrize(
    "key", ["optimizer", "optimizer_states", "D_optimizer", "optim", "g_optim", "opt_state", "lr_schedulers", "scaler"]
)
def test_the_state_of_an_optimizer_is_no_table(key: str) -> None:
    """Whatever scripts call it; an `optimal` network is one."""
    assert names({key: {"w": tensor()}, "optimal": {"w": tensor()}}) == {("optimal",): ["w"]}


def test_a_whole_module_has_the_names_of_its_state_dict() -> None:
    """Parameters, then buffers that are kept, then modules within, as torch orders them; missing ones are left out."""
    inner = Call(Name("n.In"), (), None, {"_parameters": ordered(w=tensor(), bias=None), "_buffers": {}, "_modules": {}})
    buffers = {"mean": tensor("1"), "tmp": tensor("2")}
    state = {"_parameters": {"a": tensor("3")}, "_buffers": buffers, "_modules": ordered(fc=inner), "_non_persistent_buffers_set": {"tmp"}}
    net = Call(Name("n.Net"), (), None, state)
    assert names(net) == {(): ["a", "mean", "fc.w"]}
    assert names({"model": net, "epoch": 1}) == {("model",): ["a", "mean", "fc.w"]}


def test_tensors_in_wrappings() -> None:
    """Parameters, parameters with attributes, subclasses, variables: the tensor inside."""
    parameter = Call(Name("torch._utils._rebuild_parameter"), (tensor(), True, {}))
    retyped = Call(Name("torch._tensor._rebuild_from_type_v2"), (V2, Name("x.Mine"), tensor("1").args, {}))
    variable = Call(Name("torch.nn.parameter.Parameter"), (tensor("2"),), None, (True, False, {}))
    assert [place.offset for place in found({"a": parameter, "b": retyped, "c": variable}).tables[()].values()] == [1000, 2000, 3000]


ODD = {
    "stored sparse": Call(Name("torch._utils._rebuild_sparse_tensor"), ()),
    "quantized": Call(Name("torch._utils._rebuild_qtensor"), ()),
    "meta": Call(Name("torch._utils._rebuild_meta_tensor_no_storage"), ()),
    "negated": Call(V2, (*tensor().args, {"neg": True})),
    "overlapping": tensor(sizes=(5, 3), strides=(0, 1)),
    "of the type float4_e2m1fn_x2": Call(V3, (*tensor().args, Name("torch.float4_e2m1fn_x2"))),
}


@pytest.mark.parametrize("why", ODD)
def test_odd_tensors_are_told(why: str) -> None:
    """What is no plain run of numbers is named with the reason, beside the tensors that are."""
    result = found({"model": {"w": tensor(), "x": ODD[why]}})
    assert list(result.tables[("model",)]) == ["w"]
    assert why in result.odd["model.x"]


def test_types_that_storages_have_no_word_for() -> None:
    """Float 8 lies in an untyped storage, and the type beside it: 24 bytes are 24 numbers, the 5th is byte 5."""
    raw = Persistent(("storage", Name("torch.storage.UntypedStorage"), "0", "cpu", 24))
    eight = Call(V3, (raw, 5, (4,), (1,), False, {}, Name("torch.float8_e4m3fn")))
    assert found({"w": eight}).tables[()] == {"w": Place("m.pt", 1005, "float8_e4m3fn", (4,))}


WRONG = {
    "past": tensor(start=1),
    "past the storage": tensor(sizes=(2, 4), strides=(4, 1)),
    "strides": tensor(sizes=(2,), strides=(2, 1)),
    "numbers from 0": tensor(sizes=(-1, 3)),
    "axes": tensor(sizes=(1,) * 65, strides=(1,) * 65),
    "huge": tensor(sizes=(1 << 61, 8), strides=(0, 0)),
    "nowhere": tensor(start=-1),
    "a storage of the type": tensor(kind=Name("torch.OddStorage")),
    "no storage": Call(V2, (Persistent("x"), *tensor().args[1:])),
    "a count": tensor(numel=-6),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_tensor_that_lies(case: str) -> None:
    """A tensor that does not fit its storage, or says nothing sensible, is an error."""
    with pytest.raises(Contradiction):
        found({"w": WRONG[case]})


def test_an_empty_tensor_lies_within_its_storage() -> None:
    """Whatever start it claims, it has no numbers."""
    assert found({"w": tensor(start=10**9, sizes=(0, 3))}).tables[()]["w"].offset == 1000


def test_shared_and_endless_trees_end() -> None:
    """A list in itself, mappings in each other, and 2 ** 60 ways to one mapping without tensors are walked in no time."""
    loop: dict[str, Any] = {"w": tensor()}
    loop["self"] = loop
    shared: Any = {"x": 1}
    for _ in range(60):
        shared = {"a": shared, "b": shared}
    assert names({"a": loop, "b": shared}) == {("a",): ["w"]}


def test_a_tree_with_too_many_ways_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 ** 25 ways to a tensor: an error, not a wait."""
    monkeypatch.setattr(torch_tables, "ENTRY_LIMIT", 50_000)
    shared: Any = {"w": tensor()}
    for _ in range(25):
        shared = {"a": shared, "b": shared}
    with pytest.raises(Contradiction, match="entries"):
        found(shared)


def test_two_tables_of_one_name() -> None:
    """A number and its text are the same key to a reader, so both together are refused."""
    with pytest.raises(Contradiction, match="two tables"):
        found({0: {"w": tensor()}, "0": {"w": tensor()}})


def test_an_ordered_dictionary_of_python_2() -> None:
    """It is made from a list of pairs."""
    old = Call(Name("collections.OrderedDict"), ([["w", tensor()], ["b", tensor("1")]],))
    assert names({"state_dict": old}) == {("state_dict",): ["w", "b"]}


def test_what_torch_allows_is_harmless() -> None:
    """Every name that torch.load(weights_only=True) reads without being told to."""
    from torch._weights_only_unpickler import _get_allowed_globals

    assert sorted(set(_get_allowed_globals()) - HARMLESS) == []


def test_what_can_run_is_not_harmless() -> None:
    """None of the usual ways to run code is on the list."""
    bad = {"os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.getattr", "subprocess.Popen", "functools.partial"}
    bad |= {"builtins.__import__", "torch.storage._load_from_bytes", "operator.attrgetter", "torch.load", "torch.hub.load", "builtins.open"}
    assert bad & HARMLESS == set()


def test_the_sentence_for_code() -> None:
    """The names, the class of a whole pickled network and its entry, and both ways on."""
    net = Call(Name("my.Net"), (), None, {"_parameters": {}, "_buffers": {}, "_modules": {}})
    with pytest.raises(UnsafePickle, match=r"m\.pt .*needs code to be read: my\.Net\. Its entry 'model' is a whole .*my\.Net") as error:
        require_harmless(Path("m.pt"), ["collections.OrderedDict", "my.Net"], {"model": net}, trust=False)
    assert all(word in str(error.value) for word in ("refused", "state_dict", "--trust-pickle"))
    assert require_harmless(Path("m.pt"), ["my.Net", "torch.Size"], net, trust=True) == ("my.Net",)


def test_a_tree_of_torch() -> None:
    """What torch itself pickles for a parameter with attributes, read through."""
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    parameter.tag = "x"
    buffer = io.BytesIO()

    class Asking(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 6) if isinstance(value, torch.storage.TypedStorage) else None

    Asking(buffer, 2).dump(OrderedDict(w=parameter, args=argparse.Namespace(a=1)))
    result = found(read_tree(buffer.getvalue())[0])
    assert result.tables == {(): {"w": Place("m.pt", 1000, "float32", (2, 3))}}
    assert result.others == {"args": "Namespace"}
