"""Indices of shards: believed when they and the shards agree, and when nothing leads out of the folder."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsify_cli.errors import MissingFile, SparsifyError, UnreadableFile
from sparsify_cli.values.shard_index import leaves, read_index, shards_of, written_index

NAME = "model.safetensors.index.json"
MAP = {"b": "two.safetensors", "a": "one.safetensors", "c": "one.safetensors"}


def write_index(folder: Path, weight_map: object, **rest: object) -> Path:
    """An index of any content."""
    path = folder / NAME
    path.write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": weight_map, **rest}))
    return path


@pytest.fixture
def index(tmp_path) -> Path:
    """An index of two sound shards: a and c of 3 and 2 numbers in one, b of 2 in the other, 28 bytes."""
    (tmp_path / "f").mkdir()
    save_file({"a": torch.ones(3), "c": torch.ones(2)}, tmp_path / "f/one.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "f/two.safetensors")
    return write_index(tmp_path / "f", MAP)


def test_a_sound_index(index):
    """Shards in the order of first use, the map, the size, and every header are there."""
    found = read_index(index)
    assert found.shards == ("two.safetensors", "one.safetensors")
    assert (found.weight_map, found.total_size) == (MAP, 28)
    assert found.headers["one.safetensors"].names == {"a", "c"}


def test_a_size_that_is_none_is_not_believed(index):
    """An index that says nothing, or no count, has no size; that is no error."""
    write_index(index.parent, MAP, metadata={"total_size": 28.0})
    assert read_index(index).total_size is None


@pytest.mark.parametrize("shard", ["../one.safetensors", "/etc/passwd", "..", ".", "", "a\\b", "a\0b", "sub/one.safetensors", "x" * 300])
def test_a_shard_elsewhere_is_refused(index, shard):
    """Only plain file names of the same folder are shards."""
    write_index(index.parent, MAP | {"b": shard})
    with pytest.raises(UnreadableFile, match="a plain file name in the same folder"):
        read_index(index)


def test_a_link_that_leads_out_is_refused(index):
    """A shard that is a link to a file elsewhere is refused; a link inside the folder is a file."""
    two = index.parent / "two.safetensors"
    two.rename(index.parent.parent / "elsewhere")
    two.symlink_to("../elsewhere")
    with pytest.raises(UnreadableFile, match=r"'two.safetensors' is a link that leads out"):
        read_index(index)
    (index.parent.parent / "elsewhere").rename(index.parent / "inside")
    two.unlink()
    two.symlink_to("inside")
    assert read_index(index).shards == ("two.safetensors", "one.safetensors")


def test_a_loop_of_links_is_refused(index):
    """A link to itself leads nowhere and is refused."""
    (index.parent / "two.safetensors").unlink()
    (index.parent / "two.safetensors").symlink_to("two.safetensors")
    with pytest.raises(UnreadableFile, match=r"two.safetensors"):
        read_index(index)


def test_the_cache_of_the_hub_is_no_elsewhere(tmp_path):
    """In snapshots/<revision> every file links to blobs/<hash>; a link to anything else leads out."""
    home = tmp_path / "models--x/snapshots/abc"
    home.mkdir(parents=True)
    for target in ("models--x/blobs/123", "other/blobs/123"):
        (tmp_path / target).parent.mkdir(parents=True)
        (tmp_path / target).touch()
    (home / "good").symlink_to("../../blobs/123")
    (home / "bad").symlink_to("../../../other/blobs/123")
    assert (leaves(home, "good"), leaves(home, "bad")) == (False, True)


def test_missing_shards_are_listed(index):
    """Every shard that is not there is named; a folder of that name is no shard."""
    (index.parent / "one.safetensors").unlink()
    (index.parent / "two.safetensors").unlink()
    (index.parent / "two.safetensors").mkdir()
    with pytest.raises(UnreadableFile, match=r"names 'two.safetensors', 'one.safetensors', not there as a file"):
        read_index(index)


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        (MAP | {"d": "one.safetensors"}, r"one.safetensors holds 'd', which that file does not"),
        ({k: v for k, v in MAP.items() if k != "c"}, "one.safetensors holds 'c'; the index does not name it"),
        (MAP | {"b": "one.safetensors"}, "one.safetensors holds 'b', which that file does not"),
        (MAP | {f"x{i}": "one.safetensors" for i in range(9)}, "'x0', 'x1', 'x2', 'x3', 'x4' and 4 more"),
        ({}, "no weight_map that names a tensor"),
        ([], "no weight_map that names a tensor"),
        (MAP | {"b": 3}, "gives 'b' no file, but 3"),
        (MAP | {"b": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(index, weight_map, sentence):
    """One sentence says which tensor is not where the index has it."""
    write_index(index.parent, weight_map)
    with pytest.raises(UnreadableFile, match=sentence):
        read_index(index)


def test_a_tensor_in_two_shards_is_refused(index):
    """A tensor that lies in a shard other than the one that the index names may not be the same tensor."""
    save_file({"b": torch.ones(2), "a": torch.zeros(3)}, index.parent / "two.safetensors")
    with pytest.raises(UnreadableFile, match=r"two.safetensors holds 'a'; the index puts it into one.safetensors"):
        read_index(index)


@pytest.mark.parametrize(
    "text", ['{"weight_map":{"a":"x","a":"y"}}', "[]", "{", '{"metadata":3,"weight_map":{"a":"x"}}', "[" * 100_000, ""]
)
def test_an_index_that_is_none_is_refused(index, text):
    """Duplicates, other JSON and no JSON are refused as damage of that file."""
    index.write_text(text)
    with pytest.raises(UnreadableFile, match=r"index\.json is damaged"):
        read_index(index)


def test_no_index(tmp_path):
    """A path that is not there is missing; a folder is no index."""
    with pytest.raises(MissingFile, match="There is no file"):
        read_index(tmp_path / NAME)
    with pytest.raises(UnreadableFile, match="not a regular file"):
        read_index(tmp_path)


def test_flipped_bytes_of_an_index_never_escape(index):
    """Whatever a few bytes become, an index is read or refused in one sentence."""
    whole, chance, refused = index.read_bytes(), random.Random(0), 0
    for _ in range(250):
        mutated = bytearray(whole)
        mutated[chance.randrange(len(whole))] = chance.randrange(256)
        index.write_bytes(mutated)
        try:
            assert read_index(index).weight_map
        except SparsifyError:
            refused += 1
    assert 120 < refused < 250


def test_tensors_go_where_they_came_from():
    """An old name stays, a folded one follows its origin, a new one the name with the longest same beginning."""
    old = {"h.0.a_orig": "one", "h.1.a": "two", "h.2.b.weight": "three", "z": "four"}
    homes = shards_of(["z", "h.0.a", "h.2.b.extra", "h.1.zz", "a", "zz"], old, {"h.0.a": "h.0.a_orig"})
    assert homes == {"z": "four", "h.0.a": "one", "h.2.b.extra": "three", "h.1.zz": "two", "a": "one", "zz": "four"}


def test_an_index_is_written_anew(index):
    """New map and sizes, sorted; further entries stay unless only the tensors are wanted."""
    write_index(index.parent, MAP, metadata={"total_size": 1, "total_parameters": 2, "made": "by me"}, version=3)
    kept = json.loads(written_index(index, {"y": "two", "x": "one"}, (12, 3), others=True))
    assert kept["metadata"] == {"total_size": 12, "total_parameters": 3, "made": "by me"}
    assert (list(kept["weight_map"]), kept["version"]) == (["x", "y"], 3)
    assert json.loads(written_index(index, {"x": "one"}, (12, 3), others=False)) == {
        "metadata": {"total_size": 12},
        "weight_map": {"x": "one"},
    }
