"""Headers of safetensors files: what they say, what contradicts the file, and the same bytes as the library writes."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsify_cli.errors import BadData, MissingFile, SparsifyError, UnreadableFile
from sparsify_cli.values.safetensors_header import TORCH_WORDS, in_order, read_header, write_header

SHARED = Path(__file__).parents[3] / "../shared/data"
REAL = [
    "loader_zoo/derived_resnet20_bf16.safetensors",
    "loader_zoo/derived_resnet20_fp16.safetensors",
    "loader_zoo/silero_vad_16k.safetensors",
    "loader_zoo/derived_resnet20_sharded/model-00001-of-00003.safetensors",
    "ckpt_lm/stories260K_hf_fp32/model.safetensors",
    "ckpt_lm/stories260K_hf_bf16_sharded/model-00002-of-00003.safetensors",
    "ckpt_imagenet/squeezenet1_0_deepcompression_bgr.safetensors",
]
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw_bytes(tensor) -> bytes:
    """The numbers of a tensor as they lie in memory."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def file_of(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with any header: a value that becomes JSON, or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("name", REAL)
def test_places_of_real_files_hold_what_the_library_reads(name):
    """The bytes at every place are those of the tensor that safetensors loads, and nothing is missing."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not on this machine")
    content, header, tensors = path.read_bytes(), read_header(path), load_file(path)
    assert header.names == tensors.keys()
    for key, place in header.places.items():
        assert content[place.offset : place.end] == raw_bytes(tensors[key])
        assert (place.dtype, place.shape, place.file) == (str(tensors[key].dtype)[6:], tuple(tensors[key].shape), path.name)


def test_every_type_zero_size_and_scalars(tmp_path):
    """Every type that the library writes is found where it lies; an empty tensor has no bytes, a scalar one number."""
    tensors = {word: torch.arange(6).reshape(2, 3).to(getattr(torch, word)) for word in TORCH_WORDS if word != "float8_e8m0fnu"}
    tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "": torch.ones(1), "ü\n": torch.ones(2)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    content, header = (tmp_path / "a.safetensors").read_bytes(), read_header(tmp_path / "a.safetensors", name="b")
    assert {name: content[place.offset : place.end] for name, place in header.places.items()} == {
        name: raw_bytes(tensor) for name, tensor in tensors.items()
    }
    assert header.metadata == {"format": "pt"}
    assert (header.places["empty"].size, header.places["scalar"].shape, header.places["scalar"].file) == (0, (), "b")


def test_the_header_is_the_library_s_own(tmp_path):
    """For the library's order of tensors, length, JSON and padding are byte for byte what it writes; so is the order."""
    tensors = {
        f"layer.{i}.{word}": torch.zeros(i % 3, 2).to(getattr(torch, word)) for i, word in enumerate(TORCH_WORDS) if "e8m0" not in word
    }
    tensors |= {'quoted "\t\x01é/\\': torch.zeros(1), "b": torch.zeros(2), "a": torch.zeros(())}
    for metadata in ({"format": "pt"}, {}):
        save_file(tensors, tmp_path / "a.safetensors", metadata=metadata or None)
        entries = [(name, str(tensor.dtype)[6:], tuple(tensor.shape)) for name, tensor in tensors.items()]
        header = write_header(in_order(entries), metadata)
        assert (tmp_path / "a.safetensors").read_bytes()[: len(header)] == header
        assert read_header(tmp_path / "a.safetensors").data_start == len(header)


def test_tensors_lie_in_the_order_that_is_asked_for():
    """Two numbers of 4 bytes and one of 8: offsets 0 to 8 and 8 to 16, whatever the library would prefer."""
    header = write_header([("b", "float32", (2,)), ("a", "int64", ())], {})
    assert json.loads(header[8:]) == {
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "a": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
    }
    assert len(header) % 8 == 0


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([("a", "complex128", ())], "'a' is complex128"),
        ([("a", "float32", ()), ("a", "float32", ())], "cannot be called 'a'"),
        ([("__metadata__", "float32", ())], "cannot be called '__metadata__'"),
        ([("\ud800", "float32", ())], "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_written_is_refused(entries, sentence):
    """A type without a word, a name twice, the name of the metadata and half of a surrogate pair are refused by name."""
    with pytest.raises(BadData, match=sentence):
        write_header(entries, {"format": "pt"})


def test_an_unknown_type_in_order_is_refused():
    """Sorting entries says which of them has no place in a safetensors file."""
    with pytest.raises(BadData, match="'x' is complex128"):
        in_order([("a", "float32", ()), ("x", "complex128", ())])


BAD = {
    "duplicate": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        "'a' twice",
    ),
    "duplicate inside": (b'{"a":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}}', "'dtype' twice"),
    "not JSON": (b'{"a":', "not JSON at character 5"),
    "not UTF-8": (b'{"\xff":1}', "not UTF-8 at byte 2"),
    "surrogate": (b'{"\\ud800":1}', "half of a surrogate pair"),
    "NaN": (b'{"a":NaN}', "NaN, which is no number"),
    "deep": (b'{"a":' + b"[" * 200_000, "nested too deeply"),
    "digits": (b'{"a":' + b"9" * 5000 + b"}", "thousands of digits"),
    "a list": ([], "no table of tensors"),
    "no type": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "what type 'a' has"),
    "no table": ({"a": 3}, "what type 'a' has"),
    "offsets": ({"a": F32 | {"data_offsets": [0, 8, 8]}}, "offsets of 'a' are no two counts"),
    "true offset": ({"a": F32 | {"data_offsets": [False, 8]}}, "offsets of 'a' are no two counts"),
    "negative": ({"a": F32 | {"data_offsets": [-8, 0]}}, "offsets of 'a' are no two counts"),
    "backwards": ({"a": F32 | {"data_offsets": [8, 0]}}, "ends at byte 0, before it begins at byte 8"),
    "outside": ({"a": F32 | {"shape": [100], "data_offsets": [0, 400]}}, "ends at byte 400 of the data, of which there are 8"),
    "huge": ({"a": F32 | {"shape": [1 << 40, 1 << 40]}}, "more than any file holds"),
    "huge and empty": ({"a": F32 | {"shape": [0, 1 << 62]}}, "more than any file holds"),
    "float shape": ({"a": F32 | {"shape": [2.0]}}, "no list of counts"),
    "many axes": ({"a": F32 | {"shape": [1] * 65}}, "65 axes"),
    "size": ({"a": F32 | {"shape": [3]}}, r"F32 \[3\], which takes 12 bytes, and has the bytes 0 to 8, 8"),
    "half bytes": ({"a": F32 | {"dtype": "F4", "shape": [15]}}, r"takes 7\.5 bytes"),
    "overlap": ({"a": F32, "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}, "'b' begins at byte 4 of the data, inside 'a'"),
    "hole": ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [6, 8]}}, "bytes 0 to 6 of its data, between the header and 'a', belong"),
    "trailing": ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, "last 6 bytes of the file, behind 'a', belong to no tensor"),
    "metadata": ({"__metadata__": {"a": 1}, "a": F32}, "no table of texts"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_header_that_lies_is_refused_by_what_it_says(tmp_path, case):
    """One sentence names the file, the tensor and the contradiction."""
    header, sentence = BAD[case]
    path = file_of(tmp_path / "bad.safetensors", header, bytes(8))
    with pytest.raises(UnreadableFile, match=sentence) as caught:
        read_header(path)
    assert f"{path} is damaged." in caught.value.what
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "It has 0 bytes"),
        (b"1234567", "It has 7 bytes"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "claims 4611686018427387904 bytes, and 2 follow"),
    ],
)
def test_a_file_shorter_than_its_header_is_refused(tmp_path, content, sentence):
    """No memory is asked for before the length of the header is held against that of the file."""
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UnreadableFile, match=sentence):
        read_header(tmp_path / "a.safetensors")


def test_a_header_beyond_the_limit_is_refused(tmp_path):
    """A hundred million and one bytes of header, all there in a sparse file, are not read."""
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little") + b"{")
        file.truncate(200_000_000)
    with pytest.raises(UnreadableFile, match="more than the 100000000 that are allowed"):
        read_header(tmp_path / "a.safetensors")


def test_no_file_and_no_regular_file(tmp_path):
    """A path that is not there is missing; a folder is no file."""
    with pytest.raises(MissingFile, match="There is no file"):
        read_header(tmp_path / "a.safetensors")
    with pytest.raises(UnreadableFile, match="not a regular file"):
        read_header(tmp_path)


def test_a_type_without_a_word_is_odd(tmp_path):
    """Six numbers of four bits take three bytes and are reported; the others are read, and the file is no error."""
    header = {"four": {"dtype": "F4", "shape": [6], "data_offsets": [0, 3]}, "new": {"dtype": "Q9", "shape": [], "data_offsets": [3, 8]}}
    found = read_header(file_of(tmp_path / "a", header | {"b": F32 | {"data_offsets": [8, 16]}}, bytes(16)))
    assert list(found.places) == ["b"]
    assert {name: why[:14] for name, why in found.odd.items()} == {"four": "stored as 'F4'", "new": "stored as 'Q9'"}
    assert found.names == {"b", "four", "new"}


def test_an_empty_file_and_empty_metadata(tmp_path):
    """A header without tensors over no data is sound; metadata may be null, as the library reads them."""
    assert read_header(file_of(tmp_path / "a", {})).places == {}
    assert read_header(file_of(tmp_path / "b", {"__metadata__": None})).metadata == {}


def small_file(path: Path) -> bytes:
    """The bytes of a small file of several types."""
    save_file({"a": torch.ones(3, 2), "b": torch.ones(2).half(), "c": torch.tensor(1), "d": torch.zeros(0)}, path, {"format": "pt"})
    return path.read_bytes()


def test_cut_at_every_byte(tmp_path):
    """Every beginning of a file is refused in one sentence."""
    path = tmp_path / "a.safetensors"
    whole = small_file(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableFile):
            read_header(path)


def test_flipped_bytes_never_escape(tmp_path):
    """After a few random bytes are changed, a header is refused in one sentence or every place lies inside the file."""
    path, chance = tmp_path / "a.safetensors", random.Random(0)
    whole, refused = small_file(path), 0
    for _ in range(500):
        mutated = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            mutated[chance.randrange(len(whole) - 36)] = chance.randrange(256)
        path.write_bytes(mutated)
        try:
            places = read_header(path).places.values()
        except SparsifyError:
            refused += 1
        else:
            assert all(0 < place.offset <= place.end <= len(whole) for place in places)
    assert 150 < refused < 500


def test_what_the_library_refuses_is_refused(tmp_path):
    """Of the headers that random bytes make, none that we believe in full is refused by safetensors itself."""
    path, chance, believed = tmp_path / "a.safetensors", random.Random(1), 0
    whole = small_file(path)
    for _ in range(500):
        mutated = bytearray(whole)
        mutated[chance.randrange(8, len(whole) - 36)] = chance.choice(b"abcdFIU0123456789 ")
        path.write_bytes(mutated)
        try:
            header = read_header(path)
        except SparsifyError:
            continue
        if not header.odd:
            assert load_file(path).keys() == header.names
            believed += 1
    assert believed > 5
