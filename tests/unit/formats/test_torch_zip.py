"""Torch's zip checkpoints: every tensor where torch reads it, code refused, damage told, rewritten with everything else kept."""

from __future__ import annotations

import argparse
import random
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from sparsify_cli.errors import Infeasible, UnreadableFile, UnsafePickle
from sparsify_cli.formats.torch_zip import TorchZip
from tests.torch_files import SHARED, Hostile, flat, mutated, same_bits, survives, tensor_at, tensors_of

ZIP = TorchZip()
SHARED_FILES = sorted(path for path in [*SHARED.glob("ckpt_*/**/*"), *SHARED.glob("loader_zoo/*")] if ZIP.recognises(path))


def kinds() -> dict[str, torch.Tensor]:
    """A tensor of each kind that a layout has words for."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    types = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint16, torch.float8_e4m3fn, torch.complex64)
    return {
        **{"plain": base, "turned": base.transpose(0, 2), "view": base[1, :, ::2], "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)},
        **{str(dtype): torch.tensor([0, 1, 2, 3]).to(dtype) for dtype in types},
    }


def saved(content: Any, name: str = "m.pt") -> Path:
    """A checkpoint in the current folder."""
    torch.save(content, name)
    return Path(name)


def state(module: torch.nn.Module | None = None) -> OrderedDict[str, torch.Tensor]:
    """The state dict of a small network with tied weights."""
    net = module or torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    if module is None:
        net[2].weight = net[0].weight
    return net.state_dict()


def test_every_tensor_lies_where_torch_reads_it() -> None:
    """All types, strides, views on one storage, scalars, empty ones: the bytes at its place are the tensor."""
    tensors = kinds()
    layout = ZIP.layout(saved({"state_dict": tensors, "epoch": 3}))
    table = layout.tables[("state_dict",)]
    assert list(table) == list(tensors)
    assert all(same_bits(tensor_at(layout.root, table[name]), tensor) for name, tensor in tensors.items())
    assert (layout.kind, layout.files, layout.others, layout.odd) == ("torch-zip", ("m.pt",), {"epoch": "int 3"}, {})


def test_tied_tensors_have_one_place() -> None:
    """Two names of one tensor lie at the same bytes."""
    table = ZIP.layout(saved(state())).tables[()]
    assert table["0.weight"] == table["2.weight"]
    assert table["0.bias"] != table["2.bias"]


def test_checks_cover_every_tensor_and_no_optimizer() -> None:
    """One a storage of a table: its range and its checksum in the file; the optimizer's are not among them."""
    path = saved({"model": state(), "optimizer": {"state": {0: {"m": torch.ones(5)}}}})
    layout, data = ZIP.layout(path), path.read_bytes()
    assert len(layout.checks) == len({place.offset for place in layout.tables[("model",)].values()})
    for check in layout.checks:
        crc = zlib.crc32(data[check.start : check.start + check.length])
        assert {int.from_bytes(data[at : at + 4], "little") for at in check.stored} == {crc}


@pytest.mark.parametrize("path", SHARED_FILES or [None], ids=lambda path: path.name if path else "none")
def test_files_of_other_people(path: Path | None) -> None:
    """Every tensor in a table is, bit for bit, the one that torch loads."""
    if path is None:
        pytest.skip("there is no ../shared/data beside this folder")
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = flat(torch.load(path, map_location="cpu", weights_only=True))
    found = tensors_of(ZIP.layout(path))
    assert len(found) > 0
    assert all(same_bits(tensor, loaded[name]) for name, tensor in found.items())


def test_code_is_refused_and_not_run() -> None:
    """A bomb, and a whole network with the name of its class; with trust it is read all the same, and told."""
    bomb = saved({"w": torch.ones(2), "x": Hostile()})
    with pytest.raises(UnsafePickle, match=r"m\.pt .*needs code to be read.*refused"):
        ZIP.layout(bomb)
    layout = ZIP.layout(bomb, trust=True)
    assert (list(layout.tables[()]), len(layout.foreign) > 0) == (["w"], True)
    assert not Path("exploded").exists()


def test_a_whole_network() -> None:
    """Refused with its class; with trust it has the table of its state dict."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    path = saved(net)
    with pytest.raises(UnsafePickle, match=r"a whole pickled network of the class torch\.nn\.modules\.container\.Sequential"):
        ZIP.layout(path)
    found = tensors_of(ZIP.layout(path, trust=True))
    assert list(found) == list(net.state_dict())
    assert all(same_bits(found[name], tensor) for name, tensor in net.state_dict().items())


def test_data_of_other_classes_is_read() -> None:
    """Arguments, paths and numbers of NumPy are data, not code."""
    extras = {"args": argparse.Namespace(lr=0.1), "path": PurePosixPath("a"), "best": np.float64(0.5), "rng": np.arange(3)}
    others = ZIP.layout(saved({"state_dict": state(), **extras})).others
    assert list(others) == ["args", "path", "best", "rng"]


def test_odd_tensors_are_told() -> None:
    """Sparse, quantized and meta tensors are named beside the plain ones; they are in no table."""
    quantized = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    odd = {"s": torch.eye(3).to_sparse(), "q": quantized, "m": torch.empty(2, device="meta"), "e": torch.ones(1).expand(4)}
    layout = ZIP.layout(saved({"w": torch.ones(2), **odd}))
    assert list(layout.tables[()]) == ["w"]
    assert [word in layout.odd[name] for name, word in zip("sqme", ("sparse", "quantized", "meta", "overlapping"), strict=True)] == [
        True
    ] * 4


def repacked(path: Path, change: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with members replaced (None = left out)."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile("n.pt", "w", compression) as new:
        for name in old.namelist():
            word = name.partition("/")[2]
            if change.get(word, b"") is not None:
                new.writestr(name, change.get(word) or old.read(name))
    return Path("n.pt")


CHANGES = {
    "big-endian": {"byteorder": b"big"},
    "byte order": {"byteorder": b"middle"},
    "not in the archive": {"data/0": None},
    "has 4 bytes": {"data/0": b"1234"},
    "no step": {"data.pkl": b"\x80\x02\xff."},
    "no m/data.pkl": {"data.pkl": None},
}


@pytest.mark.parametrize("word", CHANGES)
def test_a_contradiction_is_a_sentence(word: str) -> None:
    """What is wrong with the archive, and its name."""
    path = repacked(saved({"w": torch.ones(4)}), CHANGES[word])
    with pytest.raises(UnreadableFile, match=f"n\\.pt .*{word}"):
        ZIP.layout(path)


def test_compressed_storages_are_odd() -> None:
    """Someone zipped the file again: its pickle is read, its tensors are told to be compressed."""
    layout = ZIP.layout(repacked(saved({"w": torch.ones(400)}), {}, zipfile.ZIP_DEFLATED))
    assert (layout.tables, layout.odd) == ({}, {"w": "compressed in the archive"})


def test_what_it_recognises() -> None:
    """Its own files whatever their name, whole or cut off; not TorchScript, exported programs, NumPy archives, old files, folders."""
    whole = saved(state(), "m.tar")
    Path("cut.pt").write_bytes(whole.read_bytes()[:700])
    scripted = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(scripted, "s.pt")
    np.savez("a.npz", w=np.ones(3))
    torch.save(state(), "old.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile("p.pt2", "w") as made:
        made.writestr("p/archive_format", "pt2")
        made.writestr("p/data.pkl", "x")
    names = ("m.tar", "cut.pt", "s.pt", "a.npz", "old.pt", "p.pt2", ".", "nothing")
    assert [ZIP.recognises(Path(name)) for name in names] == [True, True, False, False, False, False, False, False]


def rebuilt(content: Any, keys: tuple[str, ...], tensors: dict[str, torch.Tensor], *, others: bool = True) -> Any:
    """A checkpoint with one table replaced, as torch loads it."""
    layout = ZIP.layout(saved(content))
    Path("out").mkdir()
    ZIP.rebuild(layout, keys, tensors, Path("out"), others=others)
    assert ZIP.recognises(Path("out/m.pt"))
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load("out/m.pt", weights_only=True)


def test_a_table_replaced_keeps_everything_else() -> None:
    """New names under the old keys; epoch, arguments, optimizer, the other table, the kind of mapping and its versions stay."""
    old = state()
    content = {"model": old, "ema": {"w": torch.ones(2)}, "epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.25)}
    shared = torch.zeros(3, 3)
    with torch.serialization.safe_globals(
        [(np._core.multiarray.scalar, "numpy._core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]
    ):
        new = rebuilt(content, ("model",), {"0.weight": shared, "2.weight": shared, "x": torch.ones(1)})
    assert list(new) == ["model", "ema", "epoch", "args", "best"]
    assert (list(new["model"]), type(new["model"]), new["model"]._metadata) == (["0.weight", "2.weight", "x"], OrderedDict, old._metadata)
    assert new["model"]["0.weight"].data_ptr() == new["model"]["2.weight"].data_ptr()
    assert (new["ema"]["w"].tolist(), new["epoch"], new["args"].lr, new["best"]) == ([1, 1], 3, 0.1, 0.25)


def test_a_table_alone_keeps_its_keys() -> None:
    """Without the rest there is the table under its keys, and nothing of code is needed."""
    content = {"run": {"state_dict": state(), "x": Hostile()}, "epoch": 3}
    layout = ZIP.layout(saved(content), trust=True)
    ZIP.rebuild(layout, ("run", "state_dict"), {"w": torch.arange(9.0)[:2]}, Path("."), others=False)
    new = torch.load("m.pt", weights_only=True)
    assert (list(new), list(new["run"]), type(new["run"]["state_dict"])) == (["run"], ["state_dict"], OrderedDict)
    assert new["run"]["state_dict"]["w"].untyped_storage().nbytes() == 8
    assert "0" in new["run"]["state_dict"]._metadata


def test_a_list_of_mappings_is_rewritten_as_one() -> None:
    """Each stage gets what is its own; entries that are no tensors stay."""
    new = rebuilt(
        {"state_dict": [{"w": torch.ones(2), "n": 1}, {"w": torch.ones(3)}]}, ("state_dict",), {"0.v": torch.ones(1), "1.w": torch.zeros(2)}
    )
    assert [list(part) for part in new["state_dict"]] == [["v", "n"], ["w"]]
    assert new["state_dict"][1]["w"].tolist() == [0, 0]


def test_foreign_code_cannot_be_rewritten_around() -> None:
    """What cannot be loaded without running it cannot be kept: the sentence says how to drop it."""
    layout = ZIP.layout(saved({"w": torch.ones(2), "x": Hostile()}), trust=True)
    with pytest.raises(Infeasible, match="--extras drop"):
        ZIP.rebuild(layout, (), {"w": torch.ones(1)}, Path("."), others=True)


def test_mutations() -> None:
    """Three hundred mutations: places within the file, or one sentence."""
    assert 0 < survives(ZIP, saved({"state_dict": state(), "epoch": 3, "args": argparse.Namespace(a=1)}), range(300)) < 300


def test_recognising_never_raises() -> None:
    """A hundred mutations are recognised or not."""
    path, answers = saved(state()), set()
    whole = path.read_bytes()
    for seed in range(100):
        path.write_bytes(mutated(whole, random.Random(seed)))
        answers.add(ZIP.recognises(path))
    assert True in answers
