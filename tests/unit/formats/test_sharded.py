"""The format of shards with an index: laid out as one checkpoint, written anew into the same shards."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.formats.sharded import Sharded

FORMAT = Sharded()
SHARED = Path(__file__).parents[3] / "../shared/data"
INDEX = "m.safetensors.index.json"
MASKED = {"b.weight_orig": "m-2.safetensors", "b.weight_mask": "m-2.safetensors", "a": "m-1.safetensors", "c": "m-1.safetensors"}


@pytest.fixture
def index(tmp_path) -> Path:
    """Two shards: a and c of 3 numbers each in one, the masked weight b of 2 in the other; a note beside them."""
    save_file({"a": torch.ones(3), "c": torch.ones(3)}, tmp_path / "m-1.safetensors", metadata={"format": "pt", "made": "by me"})
    save_file(
        {"b.weight_orig": torch.ones(2), "b.weight_mask": torch.tensor([1.0, 0.0])}, tmp_path / "m-2.safetensors", metadata={"format": "pt"}
    )
    (tmp_path / "note.txt").write_text("a note")
    path = tmp_path / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": MASKED}))
    return path


@pytest.mark.parametrize("name", ["loader_zoo/derived_resnet20_sharded", "ckpt_lm/stories260K_hf_bf16_sharded"])
def test_real_shards_hold_what_the_library_reads(name):
    """The bytes at every place are those of the tensors in all shards together."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not on this machine")
    found = FORMAT.layout(folder / "model.safetensors.index.json")
    tensors = {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
    contents = {file: (folder / file).read_bytes() for file in found.files}
    assert found.tables[()].keys() == tensors.keys()
    for key, place in found.tables[()].items():
        assert contents[place.file][place.offset : place.end] == tensors[key].reshape(-1).view(torch.uint8).numpy().tobytes()


def test_the_layout_of_an_index(index):
    """Shards in the order of their names, one table, and of the folder nothing but the index."""
    found = FORMAT.layout(index)
    assert (found.kind, found.root, found.companions) == ("sharded", index.parent, (INDEX,))
    assert found.files == ("m-1.safetensors", "m-2.safetensors")
    assert {name: place.file for name, place in found.tables[()].items()} == MASKED
    assert found.metadata == {"format": "pt", "made": "by me"}


def test_known_by_the_name_of_the_index(index):
    """Only files of such names are indices of shards."""
    for name in ("pytorch_model.bin.index.json", "tf_model.h5.index.json", "index.json"):
        (index.parent / name).write_text("{}")
    (index.parent / "folder.safetensors.index.json").mkdir()
    assert sorted(path.name for path in index.parent.iterdir() if FORMAT.recognises(path)) == [INDEX, "pytorch_model.bin.index.json"]


def test_folded_tensors_go_to_the_shard_of_their_parts(index, tmp_path):
    """The folded b goes where b_orig was; index and sizes say so; each shard keeps its metadata."""
    out = tmp_path / "out"
    out.mkdir()
    tensors = {"b.weight": torch.tensor([1.0, 0.0]), "a": torch.zeros(3).half(), "c": torch.ones(3), "c.scale": torch.ones(1)}
    FORMAT.rebuild(FORMAT.layout(index), (), tensors, out, others=True)
    assert sorted(path.name for path in out.iterdir()) == ["m-1.safetensors", "m-2.safetensors", INDEX]
    first, second = load_file(out / "m-1.safetensors"), load_file(out / "m-2.safetensors")
    assert (sorted(first), sorted(second), second["b.weight"].tolist()) == (["a", "c", "c.scale"], ["b.weight"], [1.0, 0.0])
    assert json.loads((out / INDEX).read_text())["metadata"] == {"total_size": 8 + 6 + 12 + 4}
    with safe_open(out / "m-1.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "made": "by me"}
    assert FORMAT.layout(out / INDEX).tables[()].keys() == tensors.keys()


def test_a_shard_that_nothing_goes_to_is_empty(index, tmp_path):
    """When a shard's tensors are dropped, it is written without any, and the index no longer names it."""
    (tmp_path / "out").mkdir()
    FORMAT.rebuild(FORMAT.layout(index), (), {"a": torch.ones(3)}, tmp_path / "out", others=False)
    assert load_file(tmp_path / "out/m-2.safetensors") == {}
    found = FORMAT.layout(tmp_path / "out" / INDEX)
    assert (found.files, found.metadata) == (("m-1.safetensors",), {"format": "pt"})


def test_a_damaged_shard_is_named(index):
    """The sentence is about the shard, not the index."""
    whole = (index.parent / "m-2.safetensors").read_bytes()
    (index.parent / "m-2.safetensors").write_bytes(whole[:-1])
    with pytest.raises(UnreadableFile, match=r"m-2\.safetensors is damaged"):
        FORMAT.layout(index)


def test_shards_of_torch(tmp_path):
    """The index of torch files: one table, checksums of each archive, written anew into the same files; an entry beside stays."""
    (tmp_path / "out").mkdir()
    for name in ("a", "b"):
        torch.save({name: torch.ones(2), "made": "by me"}, tmp_path / f"{name}.bin")
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "a.bin", "b": "b.bin"}}))
    (tmp_path / "config.json").write_text("{}")
    found = FORMAT.layout(path)
    assert (found.kind, found.root, found.files, found.companions) == ("sharded", tmp_path, ("a.bin", "b.bin"), (path.name,))
    assert [check.file for check in found.checks] == ["a.bin", "b.bin"]
    FORMAT.rebuild(found, (), {"a": torch.ones(1), "b": torch.ones(3)}, tmp_path / "out", others=True)
    second = torch.load(tmp_path / "out/b.bin", weights_only=True)
    assert (second["b"].tolist(), second["made"]) == ([1, 1, 1], "by me")
    assert json.loads((tmp_path / "out" / path.name).read_text())["metadata"] == {"total_size": 16}
