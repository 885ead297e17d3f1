"""Damaged and hostile files: one sentence, nothing run, nothing left behind, no memory that a header claims, inputs as they were."""

from __future__ import annotations

import errno
import functools
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import typer.main

from tests.cli.conftest import content
from tests.kinds import state
from tests.kinds_graphs import KINDS

PRUNE = "prune {} --sparsity 0.8 --out out"
CUT = ("bare", "legacy", "tar", "lightning", "safetensors", "scripted", "exported", "exported 2.7", "exported 2.8", "ONNX", "ONNX typed")


@pytest.fixture
def check_refused(run, tmp_path, monkeypatch):
    """A function: inspect and prune refuse a path in one sentence that names it; the sentence of prune. Nothing changes or is left."""
    monkeypatch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))  # the same each time, and slow

    def check(
        path: Path | str, *flags: str, word: str = "", verbs: tuple[str, ...] = ("inspect {}", PRUNE), codes: tuple[int, ...] = (1, 2)
    ) -> str:
        before, said = content(tmp_path), None
        for verb in verbs:
            said = run(verb.format(path), *flags)
            assert said.code in codes and said.out == "", said
            assert said.err.strip().splitlines() == [said.sentence]
            assert "unexpected happened" not in said.err and (word or Path(path).name) in said.sentence
            assert content(tmp_path) == before
        assert said is not None
        return said.sentence

    return check


# ------------------------------------------------------------------------------------------------------------- cut off


@pytest.mark.parametrize("name", CUT)
def test_cut_at_every_tenth(name, check_refused, tmp_path):
    """Nine tenths of a file are not taken for the file."""
    path = KINDS[name].make(tmp_path)
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) if name == "tar" else len(whole)  # such archives end with padding
    for tenth in range(10):
        path.write_bytes(whole[: end * tenth // 10])
        check_refused(path)


@pytest.mark.parametrize(
    ("name", "cut"),
    [("shards", "model-00002-of-00002.safetensors"), ("shards", "model.safetensors.index.json"), ("ONNX external", "model.data")],
)
def test_a_part_cut_at_every_tenth(name, cut, check_refused, tmp_path):
    """One file of several is cut off; the sentence names the part or the whole."""
    path = KINDS[name].make(tmp_path)
    whole = (tmp_path / cut).read_bytes()
    for tenth in range(10):
        (tmp_path / cut).write_bytes(whole[: len(whole) * tenth // 10])
        check_refused(path, word=".")


# --------------------------------------------------------------------------------------------- headers that do not hold


def write_safetensors(path: Path, header: str | Mapping[str, Any], data: bytes = bytes(64), length: int | None = None) -> Path:
    """A safetensors file with whatever header."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, end: int, shape: tuple[int, ...] = (4, 4), dtype: str = "F32") -> dict[str, Any]:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


LIES: dict[str, Any] = {
    "behind the end": {"w": entry(0, 6400, (40, 40))},
    "overlap": {"v": entry(0, 64), "w": entry(32, 96)},
    "the same bytes": {"v": entry(0, 64), "w": entry(0, 64)},
    "backwards": {"w": entry(64, 0)},
    "negative": {"w": entry(-64, 0)},
    "huge shape": {"w": entry(0, 64, (2**40, 2**40))},
    "shape that wraps round": {"w": entry(0, 64, (2**62, 4))},
    "another shape": {"w": entry(0, 64, (4, 5))},
    "negative size": {"w": entry(0, 64, (-4, -4))},
    "size that is no number": {"w": entry(0, 64, (4.0, True))},  # type: ignore[arg-type]
    "many axes": {"w": entry(0, 64, (1,) * 5000 + (16,))},
    "unknown type": {"w": entry(0, 64, dtype="F7")},
    "no offsets": {"w": {"dtype": "F32", "shape": [4, 4]}},
    "a list": "[]",
    "a number": "17",
    "not JSON": '{"w": ',
    "deep": "[" * 200_000,
    "long number": '{"w": ' + "9" * 200_000 + "}",
    "duplicate key": f'{{"w": {json.dumps(entry(0, 64))}, "w": {json.dumps(entry(0, 64))}}}',
    "not a number": '{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 64]}}',
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(lie, check_refused, tmp_path):
    """Offsets, shapes, types and keys that contradict each other or the file."""
    check_refused(write_safetensors(tmp_path / "model.safetensors", LIES[lie]))


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**31, 2**40, 2**63 - 1, 2**64 - 1])
def test_a_header_of_any_length(length, check_refused, tmp_path):
    """A length that the file does not have is refused before anything is read."""
    check_refused(write_safetensors(tmp_path / "model.safetensors", {"w": entry(0, 64)}, length=length))


INDICES: dict[str, Any] = {
    "missing shard": {"w": "model-00009-of-00009.safetensors"},
    "outside": {"w": "../../etc/passwd"},
    "far outside": {"w": "../" * 12 + "etc/passwd"},
    "absolute": {"w": "/etc/passwd"},
    "a folder": {"w": "."},
    "nothing": {"w": ""},
    "zero byte": {"w": "a\0b"},
    "not a name": {"w": 7},
    "not there": {"other": "model-00001-of-00002.safetensors"},
    "a list": [],
    "itself": {"w": "model.safetensors.index.json"},
}


@pytest.mark.parametrize("what", INDICES)
def test_an_index_that_lies(what, check_refused, tmp_path):
    """Shards that are missing, elsewhere, or do not hold what they are said to hold; by the folder and by the index."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = KINDS["index"].make(folder)
    index = json.loads(path.read_text())
    listed = INDICES[what] if isinstance(INDICES[what], list) else index["weight_map"] | INDICES[what]
    path.write_text(json.dumps(index | {"weight_map": listed}))
    assert "root:" not in check_refused(path, word="index.json" if what != "itself" else "model") + check_refused(folder, word="model")


def test_an_index_with_a_key_twice(check_refused, tmp_path):
    """The later of two entries would win silently."""
    path = KINDS["index"].make(tmp_path)
    path.write_text(path.read_text().replace('"weight_map": {', '"weight_map": {"fc.bias": "model-00001-of-00002.safetensors",'))
    check_refused(path, word="fc.bias")


def test_a_shard_that_is_a_link_out_of_the_folder(check_refused, tmp_path):
    """A link to somebody else's file is not followed."""
    (tmp_path / "model").mkdir()
    path = KINDS["index"].make(tmp_path / "model")
    shard = tmp_path / "model/model-00001-of-00002.safetensors"
    shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to("../elsewhere.safetensors")
    check_refused(path, word="model-00001-of-00002.safetensors")


# -------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_without_order(bad, dtype, check_refused, run, tmp_path):
    """Refused by the tensor's name; allowed, they are the first to go, and 80 % of 96 + 288 weights are zero all the same."""
    table = state(dtype=dtype)
    table["fc.weight"][2, 3:6] = bad
    torch.save({"state_dict": table}, "model.pt")
    sentence = check_refused("model.pt", verbs=(PRUNE,))
    assert "fc.weight (3)" in sentence and "--allow-nonfinite" in sentence
    assert run(PRUNE.format("model.pt"), "--allow-nonfinite").code == 0
    found = torch.load("out/model.pt", weights_only=True)["state_dict"]
    assert found["fc.weight"][2, 3:6].tolist() == [0, 0, 0]
    assert sum(int((found[name] == 0).sum()) for name in ("conv.weight", "fc.weight")) == 307  # 0.8 * 384 = 307.2


def test_numbers_without_order_that_are_no_weights(check_refused, run):
    """A statistic that is not finite is refused by name too, and kept as it is when allowed."""
    table = state()
    table["bn.running_var"][1] = float("nan")
    torch.save(table, "model.pt")
    assert "bn.running_var (1)" in check_refused("model.pt", verbs=(PRUNE,))
    assert run(PRUNE.format("model.pt"), "--allow-nonfinite").code == 0
    assert bool(torch.load("out/model.pt", weights_only=True)["bn.running_var"][1].isnan())


# -------------------------------------------------------------------------------------------------------------- pickles

CALL = b"(S'touch exploded'\ntR."
BOMBS: dict[str, bytes] = {
    "os.system": b"cos\nsystem\n" + CALL,
    "posix.system": b"cposix\nsystem\n" + CALL,
    "eval": b'cbuiltins\neval\n(S\'open("exploded", "w")\'\ntR.',
    "instance": b"(S'touch exploded'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch exploded'\no.",
    "stacked name": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch exploded\x85R.",
    "new object": b"\x80\x02csubprocess\nPopen\nX\x0e\x00\x00\x00touch exploded\x85\x81.",
    "restored state": b"\x80\x02cpathlib\nPath\n)R}X\x01\x00\x00\x00ac__main__\nx\nsb.",
    "attribute": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch exploded'\ntR.",
    "hidden behind": b"\x80\x02}0cos\nsystem\n(S'touch exploded'\ntR0}.",
}
HEAVY: dict[str, bytes] = {
    "memo": b"\x80\x02]r" + struct.pack("<I", 2**31 - 2) + b".",
    "memo as text": b"\x80\x02]p2147483646\n.",
    "nested tuples": b"\x80\x02N" + b"\x85" * 30_000 + b".",
    "nested lists": b"\x80\x02" + b"]" * 15_000 + b"a" * 14_999 + b".",
    "nested marks": b"\x80\x02" + b"(" * 30_000 + b".",
    "long integer": b"\x80\x02\x8b" + struct.pack("<i", 100 << 20) + b"\x01.",
    "negative length": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"\x01.",
    "long text": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.",
    "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "long decimal": b"\x80\x02L" + b"9" * 500_000 + b"L\n.",
    "doubled lists": b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(90)) + b".",
    "contains itself": b"\x80\x02]q\x00h\x00a.",
    "dictionary of itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "unhashable key": b"\x80\x02}]Ns.",
    "empty stack": b"\x80\x02RRR.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
    "persistent": b"\x80\x02N" + b"Q" * 15_000 + b".",
}


def as_zip(pickled: bytes) -> bytes:
    """A torch archive with this pickle."""
    with zipfile.ZipFile("made.zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
    data = Path("made.zip").read_bytes()
    Path("made.zip").unlink()
    return data


def as_legacy(pickled: bytes) -> bytes:
    """A file of torch before 1.6 with this pickle."""
    magic, protocol = 0x1950A86A20F9469CFC6C, 1001
    return b"".join(pickle.dumps(part, 2) for part in (magic, protocol, {"little_endian": True})) + pickled + pickle.dumps([], 2)


WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {"zip": as_zip, "legacy": as_legacy, "bare pickle": bytes}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_runs_something(bomb, wrapping, check_refused, run):
    """It is named or called unknown; nothing runs, also when the user trusts it, since nothing ever does."""
    Path("model.pt").write_bytes(WRAPPINGS[wrapping](BOMBS[bomb]))
    check_refused("model.pt")
    for verb in ("inspect model.pt", PRUNE.format("model.pt")):
        said = run(verb, "--trust-pickle")
        assert said.code in {1, 2} and said.sentence
    assert not Path("exploded").exists()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("bomb", HEAVY)
def test_a_pickle_that_is_heavy(bomb, wrapping, check_refused):
    """Memory and time that a few bytes claim are not given."""
    Path("model.pt").write_bytes(WRAPPINGS[wrapping](HEAVY[bomb]))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    check_refused("model.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert time.process_time() - started < 10


@pytest.mark.parametrize("bomb", ["zeros", "lists", "storage"])
def test_an_archive_that_unpacks_to_much_more(bomb, check_refused):
    """Few bytes that were 320 MB of zeros, 19,000,000 lists (two gigabytes in memory), or a compressed storage."""
    with zipfile.ZipFile("model.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if bomb == "lists":
            archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * 19_000_000 + b".")
        else:
            archive.writestr("archive/data/0" if bomb == "zeros" else "archive/data.pkl", b"\x80\x02}.")
            with archive.open("archive/data.pkl" if bomb == "zeros" else "archive/data/0", "w") as file:
                for _ in range(20):
                    file.write(bytes(1 << 24))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    check_refused("model.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert time.process_time() - started < 5


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "", ".", "gone.data", "a\0b", "..\\..\\x", "model.onnx/x"])
def test_external_data_that_lie_elsewhere(location, check_refused, tmp_path):
    """ONNX names a file beside the model; one that is missing, outside or no file is refused."""
    path = KINDS["ONNX external"].make(tmp_path)
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    assert "root:" not in check_refused(path)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "-4096"), ("offset", "9" * 30), ("length", str(2**62)), ("length", "4"), ("offset", "x")]
)
def test_external_data_that_lie(key, value, check_refused, tmp_path):
    """Offsets and lengths that the file beside the model does not have."""
    path = KINDS["ONNX external"].make(tmp_path)
    model = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    entries[key].value = value
    path.write_bytes(model.SerializeToString())
    check_refused(path)


@pytest.mark.parametrize("value", [0, 0x40, 0xFFFF])
@pytest.mark.parametrize("name", [b"data.pkl", b"else.pkl"])
def test_a_directory_that_lies(value, name, check_refused):
    """Each field of the directory of an archive, one after the other; such an archive has no tensors to begin with."""
    whole = as_zip(b"\x80\x02}.").replace(b"data.pkl", name)
    for begin, length in ((b"PK\x01\x02", 46), (b"PK\x05\x06", 22)):
        for at in range(whole.rfind(begin) + 4, whole.rfind(begin) + length, 2):
            Path("model.pt").write_bytes(whole[:at] + struct.pack("<H", value) + whole[at + 2 :])
            check_refused("model.pt", verbs=("inspect {}",))


@pytest.mark.timeout(30)
def test_a_pipe_that_nobody_writes_to(run):
    """It is refused without being opened, which would take for ever; so are devices."""
    os.mkfifo("model.pt")
    for path in ("model.pt", "/dev/zero"):
        for verb in ("inspect {}", PRUNE):
            said = run(verb.format(path))
            assert said.code == 2 and path in said.sentence and "pipe" in said.sentence


# -------------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize("out", ["/proc/sparsify-test/out", "/sys/sparsify-test", "/dev/null/out"])
def test_a_target_that_takes_nothing(out, run):
    """Places that refuse even root: one sentence."""
    torch.save(state(), "model.pt")
    said = run(f"prune model.pt --sparsity 0.8 --out {out}")
    assert said.code in {1, 2} and out.split("/")[1] in said.sentence
    assert [path.name for path in Path.cwd().iterdir()] == ["model.pt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_target(run):
    """Exit code 1 and one sentence."""
    torch.save(state(), "model.pt")
    Path("there").mkdir(mode=0o555)
    said = run("prune model.pt --sparsity 0.8 --out there/out")
    assert said.code == 1 and "there" in said.sentence and list(Path("there").iterdir()) == []


@pytest.mark.parametrize("name", ["bare", "legacy", "shards", "ONNX external", "exported", "torch-prune", "sparse-bitmask"])
def test_a_full_disk(name, check_refused, tmp_path, monkeypatch):
    """Every way of writing says that the disk is full: one sentence, exit code 1, nothing left."""
    (tmp_path / "given").mkdir()
    path = KINDS[name].make(tmp_path / "given")

    def full(*args: Any, **kwargs: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    if KINDS[name].folded is None:
        monkeypatch.setattr(os, "pwrite", full)
        monkeypatch.setattr(os, "copy_file_range", full)
        assert "disk is full" in check_refused(path, word="out", verbs=(PRUNE,), codes=(1,))
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # what is written by torch and safetensors meets a real limit
    try:
        sentence = check_refused(path, word="out", verbs=(PRUNE,), codes=(1,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Nothing was changed" in sentence


@pytest.mark.parametrize("limit", [0, 100, 900, 2500])
def test_a_disk_that_fills_up(limit, check_refused, tmp_path):
    """Whatever was the last byte that fitted, the run leaves nothing."""
    safetensors.torch.save_file(state(), tmp_path / "model.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        check_refused(tmp_path / "model.safetensors", word="out", verbs=(PRUNE,), codes=(1,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.fromfile("model.safetensors", dtype=np.uint8).size > limit
