"""The format of one safetensors file: recognised, laid out, written anew."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sparsify_cli.errors import BadData, DiskFailure, Infeasible, SparsifyError
from sparsify_cli.formats.safetensors import Safetensors
from sparsify_cli.values.layout import Hint
from sparsify_cli.values.safetensors_header import write_header

FORMAT = Safetensors()


def about(path: Path) -> dict[str, str]:
    """The metadata that the library finds."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def test_known_by_its_first_bytes(tmp_path):
    """Any name will do for a sound file; a file of that name which begins like another kind is of the other kind."""
    save_file({"a": torch.ones(2)}, tmp_path / "weights")
    contents = {"cut": b"123", "zip": b"PK\x03\x04 and more", "lfs": b"version https://git-lfs.github.com/spec/v1", "empty": b""}
    for name, content in contents.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    (tmp_path / "other").write_bytes(b"{" * 9)
    (tmp_path / "folder.safetensors").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir() if FORMAT.recognises(path)) == [
        "cut.safetensors",
        "empty.safetensors",
        "weights",
    ]


def test_the_layout_of_a_file(tmp_path):
    """One table at the top, its places, and the metadata; nothing beside it."""
    save_file({"b": torch.ones(2, 3), "a": torch.ones(4).half()}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    found = FORMAT.layout(tmp_path / "m.safetensors")
    assert (found.kind, found.root, found.files, found.companions) == ("safetensors", tmp_path, ("m.safetensors",), ())
    assert {name: (place.dtype, place.shape) for name, place in found.tables[()].items()} == {
        "b": ("float32", (2, 3)),
        "a": ("float16", (4,)),
    }
    assert found.metadata == {"format": "pt"}


def test_a_file_of_our_own_is_laid_out_as_it_lies(tmp_path):
    """Entries of a packed file are places like any others."""
    save_file({"w::gaps": torch.ones(2).to(torch.uint8)}, tmp_path / "p", metadata={"sparsify": '{"schema": "sparsify/packed/1"}'})
    assert FORMAT.recognises(tmp_path / "p")
    assert list(FORMAT.layout(tmp_path / "p").tables[()]) == ["w::gaps"]


def test_the_config_beside_a_file_tells_what_is_transposed(tmp_path):
    """A GPT-2 file named directly has its config's hints."""
    save_file({"h.0.mlp.c_fc.weight": torch.ones(2, 8)}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert FORMAT.layout(tmp_path / "m.safetensors").hints == {"h.0.mlp.c_fc.weight": Hint("Conv1D", transposed=True)}


@pytest.mark.parametrize("others", [True, False])
def test_written_anew_as_the_library_would(tmp_path, others):
    """New tensors of every layout and type load again; for one metadata entry the file is byte for byte the library's."""
    save_file({"old": torch.ones(2)}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    tensors = {"t": torch.arange(6.0).reshape(2, 3).T, "h": torch.ones(3).bfloat16(), "n": torch.tensor(7), "e": torch.zeros(0, 2)}
    tensors["c"] = torch.tensor([1 + 2j, 3j], dtype=torch.complex64).conj()
    (tmp_path / "out").mkdir()
    FORMAT.rebuild(FORMAT.layout(tmp_path / "m.safetensors"), (), tensors, tmp_path / "out", others=others)
    plain = {name: tensor.contiguous().resolve_conj() for name, tensor in tensors.items()}
    save_file(plain, tmp_path / "expected", metadata={"format": "pt"})
    assert (tmp_path / "out/m.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.safetensors"]


def test_metadata_are_kept_as_asked(tmp_path):
    """Everything stays, or only the format; our own text, which names tensors, stays only with the same tensors."""
    metadata = {"format": "pt", "made": "by me", "sparsify": '{"schema": "sparsify/dense/1", "aliases": {"b": "a"}}'}
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "m", metadata=metadata)
    found, out = FORMAT.layout(tmp_path / "m"), tmp_path / "out"
    out.mkdir()
    same, other = {"a": torch.ones(3), "b": torch.ones(3)}, {"c": torch.ones(1)}
    FORMAT.rebuild(found, (), same, out, others=True)
    assert about(out / "m") == metadata
    FORMAT.rebuild(found, (), other, out, others=True)
    assert about(out / "m") == {"format": "pt", "made": "by me"}
    FORMAT.rebuild(found, (), same, out, others=False)
    assert about(out / "m") == {"format": "pt"}


def test_tensors_that_share_memory(tmp_path):
    """Names that the file had are both written; a new second name of the same memory is dropped, as the file had dropped it."""
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "m")
    (tmp_path / "out").mkdir()
    shared = torch.tensor([1.0, 2.0])
    FORMAT.rebuild(
        FORMAT.layout(tmp_path / "m"), (), {"new": shared, "a": shared, "b": shared, "tail": shared[1:]}, tmp_path / "out", others=True
    )
    loaded = load_file(tmp_path / "out/m")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {"a": [1.0, 2.0], "b": [1.0, 2.0], "tail": [2.0]}


def test_of_two_new_names_of_one_tensor_one_is_written(tmp_path):
    """Nothing is lost when all names of a tensor are new."""
    save_file({"a": torch.ones(2)}, tmp_path / "m")
    (tmp_path / "out").mkdir()
    shared = torch.tensor([1.0, 2.0])
    FORMAT.rebuild(FORMAT.layout(tmp_path / "m"), (), {"y": shared, "x": shared}, tmp_path / "out", others=True)
    assert list(load_file(tmp_path / "out/m")) == ["x"]


def test_folded_twins_that_the_file_had_are_both_written(tmp_path):
    """Both x_orig and y_orig were in the file, so x and y stay two tensors though they share memory."""
    names = [f"{name}_{part}" for name in "xy" for part in ("orig", "mask")]
    save_file({name: torch.ones(2) for name in names}, tmp_path / "m")
    (tmp_path / "out").mkdir()
    shared = torch.tensor([1.0, 2.0])
    FORMAT.rebuild(FORMAT.layout(tmp_path / "m"), (), {"x": shared, "y": shared}, tmp_path / "out", others=True)
    assert sorted(load_file(tmp_path / "out/m")) == ["x", "y"]


def test_what_cannot_be_written_anew_is_refused_by_name(tmp_path):
    """A sparse tensor, a type without a word, and an original with an odd tensor: one sentence each, and no file."""
    save_file({"a": torch.ones(2)}, tmp_path / "m")
    (tmp_path / "out").mkdir()
    for tensor, sentence in ((torch.eye(2).to_sparse(), "'x' is sparse_coo"), (torch.ones(1).to(torch.complex128), "'x' is complex128")):
        with pytest.raises(BadData, match=sentence):
            FORMAT.rebuild(FORMAT.layout(tmp_path / "m"), (), {"x": tensor}, tmp_path / "out", others=True)
    header = write_header([("four", "uint8", (2,))], {}).replace(b'"U8","shape":[2]', b'"F4","shape":[4]')
    (tmp_path / "odd").write_bytes(header + b"12")
    with pytest.raises(Infeasible, match="'four' is stored as 'F4'"):
        FORMAT.rebuild(FORMAT.layout(tmp_path / "odd"), (), {"x": torch.ones(1)}, tmp_path / "out", others=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    """Where nothing can be written, the file system's refusal is told as one."""
    save_file({"a": torch.ones(2)}, tmp_path / "m")
    with pytest.raises(DiskFailure, match="Its folder is not there"):
        FORMAT.rebuild(FORMAT.layout(tmp_path / "m"), (), {"a": torch.ones(2)}, tmp_path / "gone", others=True)


def test_tensors_are_read_one_at_a_time(tmp_path):
    """A mapping that reads on demand never has more than two tensors of it alive: the one written and its bytes' owner."""
    save_file({f"t{i}": torch.full((4,), float(i)) for i in range(9)}, tmp_path / "m")
    (tmp_path / "out").mkdir()
    alive, most = set(), 0

    class Reading(dict):
        def __getitem__(self, name):
            nonlocal most
            tensor = torch.full((4,), float(name[1:]) + 1)
            alive.add(name)
            most = max(most, len(alive))
            torch.utils.weak.weakref.finalize(tensor, alive.discard, name)
            return tensor

    FORMAT.rebuild(FORMAT.layout(tmp_path / "m"), (), Reading.fromkeys(f"t{i}" for i in range(9)), tmp_path / "out", others=True)
    assert load_file(tmp_path / "out/m")["t8"].tolist() == [9.0] * 4
    assert most <= 2


def test_mutations_never_escape(tmp_path):
    """Cut at every tenth, and with bytes changed anywhere, a file is laid out inside itself or refused in one sentence."""
    path, chance = tmp_path / "m.safetensors", random.Random(2)
    save_file({"a": torch.ones(4, 4), "b": torch.ones(3)}, path, metadata={"format": "pt", "sparsify": json.dumps({"schema": "x"})})
    whole = path.read_bytes()
    cuts = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    flips = [bytearray(whole) for _ in range(300)]
    for flip in flips:
        flip[chance.randrange(len(flip))] = chance.randrange(256)
    refused = 0
    for content in (*cuts, *flips):
        path.write_bytes(content)
        try:
            assert all(place.end <= len(content) for place in FORMAT.layout(path).tables[()].values())
        except SparsifyError:
            refused += 1
    assert len(cuts) < refused < len(cuts) + len(flips)


def test_laying_out_needs_no_torch(tmp_path):
    """Importing the three formats and reading a header leaves torch, numpy and safetensors unloaded."""
    save_file({"a": torch.ones(2)}, tmp_path / "m")
    code = f"""
import sys
from pathlib import Path
from sparsify_cli.formats import folder, safetensors, sharded
assert list(safetensors.Safetensors().layout(Path({str(tmp_path / "m")!r})).tables[()]) == ["a"]
print(sorted({{"torch", "numpy", "safetensors"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("[]\n", 0)
