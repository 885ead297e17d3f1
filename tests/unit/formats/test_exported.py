"""Programs of torch.export: weights located, changed inside the archive, and loaded again."""

from __future__ import annotations

import json
import random
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import SparsifyError, UnreadableFile
from sparsify_cli.formats.exported import Exported
from sparsify_cli.formats.torch_zip import TorchZip
from sparsify_cli.formats.torchscript import Torchscript
from sparsify_cli.values.layout import Layout, Place

FORMAT = Exported()
CONFIG = "data/weights/model_weights_config.json"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.turned = nn.Parameter(torch.randn(4, 4).T)
        self.register_buffer("scale", torch.ones(4, dtype=torch.bfloat16))
        self.register_buffer("passing", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x) + self.tied(x)) @ self.turned * self.scale.float() + self.passing


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One archive, made once."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch doubts tensors that are not contiguous; it keeps them
        torch.export.save(torch.export.export(Net().eval(), (torch.randn(2, 4),)), path)
    return path.read_bytes()


@pytest.fixture
def path(program: bytes, tmp_path: Path) -> Path:
    """A copy of it."""
    (tmp_path / "net.pt2").write_bytes(program)
    return tmp_path / "net.pt2"


def read(path: Path, place: Place) -> Tensor:
    """The tensor at a place."""
    flat = torch.frombuffer(bytearray(path.read_bytes()[place.offset : place.end]), dtype=getattr(torch, place.dtype))
    return flat.as_strided(place.shape, place.strides) if place.strides else flat.reshape(place.shape)


def patched(layout: Layout, offset: int, numbers: bytes) -> bytes:
    """The file with some bytes changed and its checksums renewed."""
    raw = bytearray(layout.path.read_bytes())
    raw[offset : offset + len(numbers)] = numbers
    for check in layout.checks:
        crc = zlib.crc32(raw[check.start : check.start + check.length]).to_bytes(4, "little")
        for at in check.stored:
            raw[at : at + 4] = crc
    return bytes(raw)


def changed(path: Path, change: Callable[[dict[str, bytes]], None], *, method: int = zipfile.ZIP_STORED) -> Path:
    """The archive with its members changed: short names and contents."""
    with zipfile.ZipFile(path) as old:
        inside = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    change(inside)
    target = path.with_name("changed.pt2")
    with zipfile.ZipFile(target, "w", method) as new:
        for name, content in inside.items():
            new.writestr(f"net/{name}", content)
    return target


def described(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The archive with another description of `first.weight`."""

    def rewrite(inside: dict[str, bytes]) -> None:
        config = json.loads(inside[CONFIG])
        change(config["config"]["first.weight"])
        inside[CONFIG] = json.dumps(config).encode()

    return changed(path, rewrite)


def test_names_order_and_numbers_are_those_of_the_program(path: Path) -> None:
    """Parameters and kept buffers, tied and strided; constants and passing buffers are left alone."""
    layout, expected = FORMAT.layout(path), torch.export.load(path).state_dict
    table = layout.tables[()]
    assert table.keys() == expected.keys() == {"first.weight", "first.bias", "tied.weight", "turned", "scale"}
    for name, value in expected.items():
        assert str(value.dtype) == f"torch.{table[name].dtype}"
        assert torch.equal(read(path, table[name]), value)
    assert table["first.weight"] == table["tied.weight"]
    assert (table["turned"].strides, layout.odd, len(layout.checks)) == ((1, 4), {}, 4)


def test_a_patched_weight_changes_what_the_program_computes_and_nothing_else(path: Path) -> None:
    """The archive with one weight zero loads and answers as the module with that weight zero does."""
    x, layout = torch.randn(2, 4), FORMAT.layout(path)
    place, before = layout.tables[()]["first.weight"], path.read_bytes()
    after = patched(layout, place.offset + 4 * 5, bytes(4))
    path.write_bytes(after)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    torch.manual_seed(0)
    net = Net().eval()
    dense = net(x)
    net.first.weight.data[1, 1] = 0
    assert torch.equal(torch.export.load(path).module()(x), net(x))
    assert not torch.equal(dense, net(x))
    checksums = {at for check in layout.checks for one in check.stored for at in range(one, one + 4)}
    differing = {at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    assert differing <= checksums | set(range(place.offset + 20, place.offset + 24))


def test_an_archive_of_several_models_has_a_table_for_each(path: Path) -> None:
    """Every text of weights is read, under the model's name."""
    several = changed(path, lambda inside: inside.update({"data/weights/other_weights_config.json": inside[CONFIG]}))
    tables = FORMAT.layout(several).tables
    assert tables.keys() == {("model",), ("other",)}
    assert tables[("model",)] == tables[("other",)]


@pytest.mark.parametrize(
    ("field", "value", "word"), [("use_pickle", True, "pickled"), ("layout", 1, "sparse"), ("dtype", 9, "complex32")], ids=str
)
def test_tensors_that_are_no_plain_run_are_odd(path: Path, field: str, value: Any, word: str) -> None:
    """Pickled by itself, sparse, of a type without a width here: each with its reason; the others have places."""
    layout = FORMAT.layout(described(path, lambda one: (one if field in one else one["tensor_meta"]).update({field: value})))
    assert word in layout.odd["first.weight"]
    assert "tied.weight" in layout.tables[()]


def test_compressed_members_are_odd(path: Path) -> None:
    """Numbers that are not there as they are have no place."""
    layout = FORMAT.layout(changed(path, lambda inside: None, method=zipfile.ZIP_DEFLATED))
    assert not layout.tables[()] and "compressed" in layout.odd["first.weight"]


LIES: list[tuple[dict[str, Any], str]] = [
    ({"sizes": [{"as_int": 5}, {"as_int": 4}]}, "reaches past the 64 bytes"),
    ({"storage_offset": {"as_int": 1}}, "reaches past the 64 bytes"),
    ({"sizes": [{"as_int": 4}]}, "1 sizes and 2 strides"),
    ({"sizes": [{"as_int": -4}, {"as_int": 4}]}, "not numbers from 0"),
    ({"sizes": [{"as_expr": "s0"}, {"as_int": 4}]}, "not numbers from 0"),
    ({"sizes": None}, "not numbers from 0"),
    ({"sizes": [{"as_int": 2**61}, {"as_int": 2**61}]}, "2 sizes"),
    ({"dtype": 99}, "unknown type 99"),
    ({"dtype": True}, "unknown type True"),
]


@pytest.mark.parametrize(("lie", "said"), LIES, ids=[said for _, said in LIES])
def test_descriptions_that_contradict_the_bytes_are_refused(path: Path, lie: dict[str, Any], said: str) -> None:
    """Sizes, strides, offset and type are checked against the member."""
    with pytest.raises(UnreadableFile, match=said):
        FORMAT.layout(described(path, lambda one: one["tensor_meta"].update(lie)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (CONFIG, b"[" * 100_000, "nested too deeply"),
        (CONFIG, b'{"config": 1}', "no table of weights"),
        (CONFIG, b'{"config": {"w": {"use_pickle": false}}}', "no member or no description"),
        ("byteorder", b"big", "most significant byte first"),
    ],
)
def test_damaged_texts_are_refused(path: Path, name: str, content: bytes, said: str) -> None:
    """No JSON, another JSON, the other byte order."""
    with pytest.raises(UnreadableFile, match=said):
        FORMAT.layout(changed(path, lambda inside: inside.update({name: content})))


def test_a_weight_that_lies_in_no_member_is_refused(path: Path) -> None:
    """Nor does a name lead out of the folder of weights."""
    for name in ("weight_99", "../constants/none"):
        with pytest.raises(UnreadableFile, match="no such member"):
            FORMAT.layout(described(path, lambda one, name=name: one.update(path_name=name)))


def test_compiled_archives_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """AOTInductor keeps no table at all."""
    path = tmp_path / "compiled.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/data/aotinductor/model/a.so", "x")
    assert FORMAT.recognises(path)
    with pytest.raises(UnreadableFile, match="Pass the program that was compiled"):
        FORMAT.layout(path)


def test_no_other_format_recognises_it_and_it_recognises_no_other(path: Path, tmp_path: Path) -> None:
    """A program, a plain torch file and a script are three kinds."""
    torch.save({"w": torch.ones(2)}, tmp_path / "plain.pt")
    assert [kind.recognises(path) for kind in (FORMAT, Torchscript(), TorchZip())] == [True, False, False]
    assert [FORMAT.recognises(tmp_path / name) for name in ("plain.pt", ".")] == [False, False]


def test_no_mutation_escapes_as_anything_but_a_sentence(program: bytes, path: Path) -> None:
    """Flipped bytes, most of them in the text of weights, and cut tails: places inside, or an error of ours."""
    generator, outcomes, text = random.Random(0), set(), program.index(b'{"config"')
    for _ in range(200):
        mutated = bytearray(program[: generator.choice([len(program)] * 3 + [generator.randrange(1, len(program))])])
        for _ in range(generator.randrange(4)):
            at = generator.choice([text + generator.randrange(1000), generator.randrange(len(program))])
            mutated[at % len(mutated)] = generator.choice([generator.randrange(256), ord("9")])
        path.write_bytes(mutated)
        FORMAT.recognises(path)
        try:
            places = [place for table in FORMAT.layout(path).tables.values() for place in table.values()]
            outcomes.add(all(0 <= place.offset <= place.end <= len(mutated) for place in places))
        except SparsifyError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}
