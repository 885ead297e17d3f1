"""Tensor files: ties, names, reproducible bytes, file sizes to the byte, and hostile headers."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from sparsify_cli.errors import BadData, BadRequest, MissingFile, Regression, UnreadableFile
from sparsify_cli.values.tensor_file import find, forms, is_ours, read, require_equal, save_dense, save_packed, tied

PLAIN = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
EIGHT = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def checkered(count: int = 40_000, every: int = 40) -> torch.Tensor:
    """`count` values of which the first of every `every` is 1."""
    tensor = torch.zeros(count)
    tensor[::every] = 1
    return tensor


def payload(path: Path) -> int:
    """Bytes of a safetensors file after its header."""
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def rewrite(path: Path, **changes: Any) -> None:
    """Change the JSON text of a packed file, entries untouched."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sparsify"])
    save_file(load_file(path), path, metadata={"sparsify": json.dumps(header | changes)})


@pytest.mark.parametrize("dtype", PLAIN + WHOLE + EIGHT, ids=str)
@pytest.mark.parametrize("save", [save_dense, save_packed])
def test_every_dtype_comes_back(tmp_path: Path, dtype: torch.dtype, save: Any) -> None:
    """Dense, sparse, scalar and empty tensors of every dtype come back bit for bit with their shapes."""
    tensors = {
        "sparse": checkered().reshape(200, 200).to(dtype),
        "full": torch.ones(3, 5).to(dtype),
        "scalar": torch.ones(()).to(dtype),
        "empty": torch.zeros(0, 4).to(dtype),
        "zero": torch.zeros(5000).to(dtype),
    }
    save(tmp_path / "a", tensors)
    back = read(tmp_path / "a")
    assert list(back) == sorted(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        assert back[name].dtype == dtype
        assert back[name].flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()


def test_file_size_to_the_byte(tmp_path: Path) -> None:
    """1000 of 40000 floats, 39 zeros between them: 5 bytes each; 20000 alternating: 5000 bytes of mask and 4 each; 7 dense."""
    save_packed(tmp_path / "a", {"gaps": checkered(), "mask": checkered(every=2), "bias": torch.ones(7)})
    assert payload(tmp_path / "a") == 1000 * 5 + 40_000 // 8 + 20_000 * 4 + 7 * 4
    assert forms(tmp_path / "a") == {"dense": 1, "bitmask": 1, "gaps8": 1, "gaps16": 0}
    assert (tmp_path / "a").stat().st_size - payload(tmp_path / "a") < 1024


def test_a_foreign_program_can_read_it(tmp_path: Path) -> None:
    """With the layout as documented and nothing of ours, the tensor comes back."""
    tensor = checkered(every=3).reshape(100, 400)
    save_packed(tmp_path / "a", {"w": tensor})
    entries = load_file(tmp_path / "a")
    kept = [bool(byte >> bit & 1) for byte in entries["w::bitmask"].tolist() for bit in range(8)]
    rebuilt = torch.zeros(40_000)
    rebuilt[torch.tensor(kept[:40_000])] = entries["w::values"]
    assert torch.equal(rebuilt.reshape(100, 400), tensor)


@pytest.mark.parametrize("save", [save_dense, save_packed])
def test_same_tensors_same_bytes(tmp_path: Path, save: Any) -> None:
    """The order of the names and where a tensor lies in memory do not show in the file."""
    shared = checkered()
    tensors = {"b": checkered(every=2), "a": shared, "c": shared, "t": checkered().reshape(200, 200).T}
    for attempt in range(4):
        turned = reversed(tensors.items()) if attempt % 2 else tensors.items()
        save(tmp_path / str(attempt), dict(turned))
    assert len({(tmp_path / str(attempt)).read_bytes() for attempt in range(4)}) == 1


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    """Packed stores them once, dense under both names; both tie them again."""
    shared = checkered()
    tensors = {"head": shared, "embedding": shared, "other": checkered()}
    assert tied(tensors) == {"head": "embedding"}
    for save in (save_dense, save_packed):
        save(tmp_path / save.__name__, tensors)
        back = read(tmp_path / save.__name__)
        assert back["head"].data_ptr() == back["embedding"].data_ptr() != back["other"].data_ptr()
        assert torch.equal(back["head"], shared)
    assert torch.equal(load_file(tmp_path / "save_dense")["head"], shared)
    assert payload(tmp_path / "save_packed") == 2 * 1000 * 5


def test_views_of_one_storage_are_stored_apart(tmp_path: Path) -> None:
    """Rows, a reshape and a transpose of one tensor are not ties; each comes back with its own values."""
    base = torch.arange(12.0)
    tensors = {"base": base, "grid": base.view(3, 4), "row": base.view(3, 4)[1], "turned": base.view(3, 4).T}
    for save in (save_dense, save_packed):
        save(tmp_path / "a", tensors)
        back = read(tmp_path / "a")
        assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_names_that_look_like_entries(tmp_path: Path) -> None:
    """A tensor called like the entry of another one does not collide with it."""
    tensors = {"w": checkered(), "w::values": torch.ones(3), "v::gaps": checkered(every=2)}
    save_packed(tmp_path / "a", tensors)
    back = read(tmp_path / "a")
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_packed_entries_without_our_header_are_refused(tmp_path: Path) -> None:
    """One changed byte of the metadata's key must not turn a packed file into a foreign one of `w::gaps` and `w::values`."""
    save_packed(tmp_path / "a", {"w": checkered(), "v": checkered(every=2)})
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data.replace(b'"sparsify":', b'"sparsifx":', 1))
    with pytest.raises(UnreadableFile, match="packed entries"):
        read(tmp_path / "a")


def test_a_dense_file_of_names_like_entries(tmp_path: Path) -> None:
    """What was named like a pair of entries before it was saved comes back under those names."""
    tensors = {"w::bitmask": torch.ones(2), "w::values": torch.ones(3)}
    save_dense(tmp_path / "a", tensors)
    assert set(read(tmp_path / "a")) == set(tensors)


def test_odd_names(tmp_path: Path) -> None:
    """Quotes, accents and empty names survive the header."""
    tensors = {'q"uote\\': torch.ones(1), "é·\u2028\n": checkered(), "": torch.ones(2)}
    save_packed(tmp_path / "a", tensors)
    assert set(read(tmp_path / "a")) == set(tensors)


def test_what_safetensors_has_no_word_for(tmp_path: Path) -> None:
    """A sparse layout and complex128 are refused by name, nothing is written."""
    for tensor, word in ((torch.eye(3).to_sparse(), "sparse_coo"), (torch.zeros(2, dtype=torch.complex128), "complex128")):
        with pytest.raises(BadData, match=f"'w' is .*{word}"):
            save_packed(tmp_path / "a", {"w": tensor})
    assert list(tmp_path.iterdir()) == []


def test_not_a_tensor_file(tmp_path: Path) -> None:
    """Absent, empty, text, and a header that promises more bytes than there are: a sentence each."""
    with pytest.raises(MissingFile, match="There is no file"):
        read(tmp_path / "absent")
    for content in (b"", b"hello", b"\xff" * 64, (10**12).to_bytes(8, "little") + b"{}"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(UnreadableFile, match="not a readable safetensors file"):
            read(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema": "sparsify/packed/9"}, "has the schema 'sparsify/packed/9'. This version knows"),
        ({"schema": None}, "has the schema None"),
        ({"tensors": []}, "not a table"),
        ({"aliases": 3}, "not a table"),
        ({"aliases": {"x": "nowhere"}}, "checksum"),
        ({"sha256": "0" * 64}, "checksum"),
        ({"tensors": {"w": {"form": "gaps8", "dtype": "float32", "shape": [10**15]}}}, "no form, dtype and shape"),
        ({"tensors": {"w": {"form": "gaps8", "dtype": "float32", "shape": [10**11]}}}, "checksum"),
    ],
)
def test_hostile_headers(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    """An unknown schema, tables that are none, lying shapes and dangling names are refused in one sentence."""
    save_packed(tmp_path / "a", {"w": checkered()})
    rewrite(tmp_path / "a", **changes)
    with pytest.raises(UnreadableFile, match=sentence):
        read(tmp_path / "a")


@pytest.mark.parametrize("text", ["[", "[]", "7", "[" * 100_000, '{"schema": "sparsify/dense/1", "aliases": {"x": "nowhere"}}'])
def test_metadata_that_are_not_ours(tmp_path: Path, text: str) -> None:
    """Metadata under our key that are no JSON, no table, or name what is not there are refused."""
    save_file({"w": torch.ones(2)}, tmp_path / "a", metadata={"sparsify": text})
    with pytest.raises(UnreadableFile, match=r"schema None|which is not there"):
        read(tmp_path / "a")


def test_dangling_records_with_a_true_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone who can make the checksum right still cannot name an entry that is missing or lie about a shape."""
    monkeypatch.setattr("sparsify_cli.values.tensor_file._digest", lambda *_: "same")
    record = {"form": "gaps8", "dtype": "float32", "shape": [10**11]}
    for table, sentence in (({"v": record}, "'v::gaps' is missing"), ({"w": record}, "'w' does not decode: its gaps cover")):
        save_packed(tmp_path / "a", {"w": checkered()})
        rewrite(tmp_path / "a", tensors=table)
        with pytest.raises(UnreadableFile, match=sentence):
            read(tmp_path / "a")


def test_require_equal(tmp_path: Path) -> None:
    """One changed value, a missing tensor and one too many are each named; equal files give bytes before and after."""
    save_dense(tmp_path / "a", {"w": torch.ones(4), "v": torch.ones(2)})
    before, after, differing = require_equal(tmp_path / "a", {"w": torch.ones(4), "v": torch.ones(2)})
    assert (before.value, after.value, differing.value, differing.n) == (24, (tmp_path / "a").stat().st_size, 0, 6)
    for tensors, sentence in (
        ({"w": torch.tensor([1.0, 1, 1, 2]), "v": torch.ones(2)}, "1 values differ in 1 tensors, first 'w'"),
        ({"w": torch.ones(4)}, "2 values differ in 1 tensors, first 'v'"),
        ({"w": torch.ones(4), "v": torch.ones(2), "u": torch.ones(3)}, "3 values differ in 1 tensors, first 'u'"),
    ):
        with pytest.raises(Regression, match=sentence):
            require_equal(tmp_path / "a", tensors)


def test_find(tmp_path: Path) -> None:
    """A folder means its packed file, then the plain one, then its only one; several unknown ones are listed."""
    with pytest.raises(MissingFile, match="holds no safetensors file"):
        find(tmp_path)
    names = ["b.safetensors", "a.safetensors", "model.safetensors", "model.packed.safetensors"]
    (tmp_path / names[0]).touch()
    assert find(tmp_path) == tmp_path / names[0]
    (tmp_path / names[1]).touch()
    with pytest.raises(BadRequest, match=r"2 safetensors files: a\.safetensors, b\.safetensors"):
        find(tmp_path)
    for name in names[2:]:
        (tmp_path / name).touch()
        assert find(tmp_path) == tmp_path / name
    assert find(tmp_path / "x") == tmp_path / "x"


def test_what_is_ours(tmp_path: Path) -> None:
    """Packed and tied files are; a tensor, a text or metadata that only mention our name are not."""
    weight = checkered()
    save_packed(tmp_path / "packed", {"w": weight})
    save_dense(tmp_path / "tied", {"v": weight, "w": weight})
    save_file({"sparsify": weight}, tmp_path / "named")
    save_file({"w": weight}, tmp_path / "text", metadata={"sparsify": "was here"})
    save_file({"w": weight}, tmp_path / "other", metadata={"sparsify": '{"schema": 1}'})
    save_file({"w": weight}, tmp_path / "half", metadata={"sparsify": "[" * 100_000})
    found = {path.name for path in tmp_path.iterdir() if is_ours(path)}
    assert found == {"packed", "tied"}


def test_a_damaged_header_is_nobodys(tmp_path: Path) -> None:
    """A length of more bytes than are allowed is not read, and neither is a header that does not parse believed."""
    path = tmp_path / "w"
    with path.open("wb") as file:
        file.write((1 << 33).to_bytes(8, "little") + b'{"sparsify"')
        file.truncate(1 << 34)
    assert not is_ours(path)
    path.write_bytes((20).to_bytes(8, "little") + b'{"sparsify": 1,     ')
    assert not is_ours(path)
