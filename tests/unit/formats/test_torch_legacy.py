"""Torch's old checkpoints: every tensor where torch reads it, bare pickles told apart, rewritten in the same kind."""

from __future__ import annotations

import argparse
import pickle
import random
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify_cli.errors import UnreadableFile, UnsafePickle
from sparsify_cli.formats.torch_legacy import TorchLegacy
from sparsify_cli.values.torch_legacy_file import MAGIC
from tests.torch_files import SHARED, Hostile, flat, mutated, same_bits, survives, tensor_at, tensors_of

OLD = TorchLegacy()
SHARED_FOLDERS = ("ckpt_*/*", "loader_zoo/*", "denoise/*.pth")
SHARED_FILES = sorted(path for pattern in SHARED_FOLDERS for path in SHARED.glob(pattern) if path.is_file() and OLD.recognises(path))


def saved(content: Any, name: str = "m.pth.tar") -> Path:
    """An old checkpoint in the current folder."""
    torch.save(content, name, _use_new_zipfile_serialization=False)
    return Path(name)


def content() -> dict[str, Any]:
    """Tensors of several types, turned and shared, beside other entries."""
    base = torch.arange(24.0).reshape(4, 6)
    net = OrderedDict(a=base, turned=base.t(), row=base[2], half=torch.ones(3).half(), n=torch.tensor(7), flag=torch.tensor([True]))
    return {"epoch": 3, "state_dict": net, "optimizer": {"state": {0: {"m": torch.ones(5, dtype=torch.float64)}}}}


def test_every_tensor_lies_where_torch_reads_it() -> None:
    """Types of every width, strides and views; the optimizer's storages are stepped over."""
    layout = OLD.layout(saved(content()))
    table = layout.tables[("state_dict",)]
    assert list(table) == list(content()["state_dict"])
    assert all(same_bits(tensor_at(layout.root, table[name]), tensor) for name, tensor in content()["state_dict"].items())
    assert table["row"].offset - table["a"].offset == 2 * 6 * 4
    assert (layout.kind, layout.others, layout.checks) == ("torch-legacy", {"epoch": "int 3", "optimizer": "mapping of 1"}, ())


@pytest.mark.parametrize("path", SHARED_FILES or [None], ids=lambda path: path.name if path else "none")
def test_files_of_other_people(path: Path | None) -> None:
    """Every tensor in a table is, bit for bit, the one that torch loads; one names code, and is refused without trust."""
    if path is None:
        pytest.skip("there is no ../shared/data beside this folder")
    found = OLD.layout(path, trust=True)
    assert sum(map(len, found.tables.values())) > 0
    if found.foreign:
        with pytest.raises(UnsafePickle, match="ThinningRecipe"):
            OLD.layout(path)
        return
    loaded = flat(torch.load(path, map_location="cpu", weights_only=True))
    assert all(same_bits(tensor, loaded[name]) for name, tensor in tensors_of(found).items())


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_network() -> None:
    """Refused with its class; with trust it has the table of its state dict."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    path = saved({"model": net})
    with pytest.raises(
        UnsafePickle, match=r"Its entry 'model' is a whole pickled network of the class torch\.nn\.modules\.container\.Sequential"
    ):
        OLD.layout(path)
    found = tensors_of(OLD.layout(path, trust=True))
    assert list(found) == [f"model.{name}" for name in net.state_dict()]
    assert all(same_bits(found[f"model.{name}"], tensor) for name, tensor in net.state_dict().items())


def test_a_view_of_old() -> None:
    """Torch before 0.4 told views as (key, start, length) beside the key of the whole: number 2 of the view is number 3 of the whole."""
    function = b"ctorch._utils\n_rebuild_tensor\n"
    asked = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x05(X\x01\x00\x00\x008K\x01K\x04ttQ"
    tensor = function + b"(" + asked + b"K\x02K\x02\x85K\x01\x85tR"
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, {}))
    body = b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s." + pickle.dumps(["7"], 2)
    Path("m.pt").write_bytes(head + body + struct.pack("<q5f", 5, 10, 11, 12, 13, 14))
    layout = OLD.layout(Path("m.pt"))
    assert tensor_at(layout.root, layout.tables[()]["w"]).tolist() == [13, 14]


BARE = {
    "plain": (pickle.dumps({"w": [1, 2]}, 4), UnreadableFile, "a plain pickle"),
    "textual": (pickle.dumps(argparse.Namespace(a=1), 0), UnreadableFile, "a plain pickle"),
    "hostile": (pickle.dumps(Hostile(), 2), UnsafePickle, "needs code"),
    "hostile textual": (b"cos\nsystem\n(S'touch exploded'\ntR.", UnsafePickle, r"os\.system"),
    "tensors": (pickle.dumps({"w": torch.ones(2)}, 2), UnsafePickle, "_load_from_bytes"),
    "cut off": (pickle.dumps({"w": [1, 2]}, 2)[:-1], UnreadableFile, "truncated"),
}


@pytest.mark.parametrize("case", BARE)
def test_a_bare_pickle(case: str) -> None:
    """It is recognised, and refused for what it is; nothing of it runs."""
    data, error, word = BARE[case]
    Path("m.pkl").write_bytes(data)
    assert OLD.recognises(Path("m.pkl"))
    with pytest.raises(error, match=f"m\\.pkl .*{word}"):
        OLD.layout(Path("m.pkl"))
    assert not Path("exploded").exists()


def test_code_in_any_of_its_pickles_is_refused() -> None:
    """Not only the content is unpickled by who loads it: the facts on the machine are too."""
    whole = saved({"w": torch.ones(2)}).read_bytes()
    facts = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}, 2)
    assert facts in whole
    Path("m.pt").write_bytes(whole.replace(facts, pickle.dumps(Hostile(), 2)))
    with pytest.raises(UnsafePickle, match="needs code"):
        OLD.layout(Path("m.pt"))


def test_a_file_of_a_big_endian_machine() -> None:
    """Its numbers would be read backwards, so it is refused."""
    whole = saved({"w": torch.ones(2)}).read_bytes()
    Path("m.pt").write_bytes(
        whole.replace(b"little_endian", b"\x00")
        .replace(b"X\x0d\x00\x00\x00\x00q", b"X\x0d\x00\x00\x00little_endianq")
        .replace(b"\x88", b"\x89", 1)
    )
    with pytest.raises(UnreadableFile, match="big-endian"):
        OLD.layout(Path("m.pt"))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_file_that_is_cut_off(share: float) -> None:
    """Cut anywhere, within the pickles or the numbers."""
    whole = saved(content()).read_bytes()
    Path("m.pt").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnreadableFile, match=r"m\.pt .*truncated"):
        OLD.layout(Path("m.pt"))


def test_a_storage_that_lies() -> None:
    """A million numbers said behind the pickle, two in it."""
    whole = saved({"w": torch.ones(2)}).read_bytes()
    Path("m.pt").write_bytes(whole[:-16] + struct.pack("<q", 10**6) + whole[-8:])
    with pytest.raises(UnreadableFile, match="reaches past"):
        OLD.layout(Path("m.pt"))
    Path("m.pt").write_bytes(whole[:-16] + struct.pack("<q", 1) + whole[-8:])
    with pytest.raises(UnreadableFile, match="2 numbers in the pickle and 1"):
        OLD.layout(Path("m.pt"))


def test_what_it_recognises() -> None:
    """Pickles of any protocol; not text, not zip archives, not folders."""
    Path("a.txt").write_text("config: 3\n(don't)\n")
    torch.save({}, "z.pt")
    Path("old.pt").write_bytes(saved(content()).read_bytes())
    assert [OLD.recognises(Path(name)) for name in ("a.txt", "z.pt", "old.pt", ".", "nothing")] == [False, False, True, False, False]


def test_rewritten_in_the_same_kind() -> None:
    """The table is replaced, the rest stays, and the file is an old one again."""
    layout = OLD.layout(saved(content()))
    Path("out").mkdir()
    OLD.rebuild(layout, ("state_dict",), {"w": torch.ones(2)}, Path("out"), others=True)
    new = torch.load("out/m.pth.tar", weights_only=True)
    assert OLD.recognises(Path("out/m.pth.tar"))
    assert (list(new), list(new["state_dict"]), new["epoch"]) == (["epoch", "state_dict", "optimizer"], ["w"], 3)
    OLD.rebuild(layout, ("state_dict",), {"w": torch.ones(2)}, Path("out"), others=False)
    assert list(torch.load("out/m.pth.tar", weights_only=True)) == ["state_dict"]


def test_mutations() -> None:
    """Three hundred mutations: places within the file, or one sentence."""
    assert 0 < survives(OLD, saved(content()), range(300)) < 300


def test_mutations_of_the_numbers_alone_are_read() -> None:
    """A bit flipped in the last 8 bytes, which are a weight's, changes no layout."""
    path = saved({"w": torch.ones(6)})
    before = OLD.layout(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + mutated(whole[-8:], random.Random(1)).ljust(8))
    assert OLD.layout(path) == before
