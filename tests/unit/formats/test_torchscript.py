"""TorchScript archives: the state dict of a module that was never run, and weights changed inside the archive."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import SparsifyError, UnreadableFile, UnsafePickle
from sparsify_cli.formats.exported import Exported
from sparsify_cli.formats.torch_zip import TorchZip
from sparsify_cli.formats.torchscript import Torchscript
from sparsify_cli.values import script_tree
from sparsify_cli.values.layout import Layout, Place

SHARED = Path(__file__).parents[3] / "../shared/data"
FORMAT = Torchscript()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])
        self.blocks[1].weight = self.blocks[0].weight
        self.norm = nn.BatchNorm1d(4)
        self.again = self.blocks[0]
        self.turned = nn.Parameter(torch.randn(6, 8)[::2, ::2].T)
        self.register_buffer("scale", torch.ones(4, dtype=torch.float16))
        self.register_buffer("passing", torch.ones(4), persistent=False)
        self.plain = torch.full((4,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return (self.norm(x) + self.again(x)) * self.scale.float() * self.plain @ self.turned + self.passing[:3]


def saved(path: Path, *, trace: bool = False) -> Path:
    """The archive of a small network, always the same."""
    torch.manual_seed(0)
    net = Net().eval()
    (torch.jit.trace(net, torch.randn(2, 4)) if trace else torch.jit.script(net)).save(path)
    return path


def read(path: Path, place: Place) -> Tensor:
    """The tensor at a place."""
    kind = getattr(torch, place.dtype)
    if not place.size:
        return torch.empty(place.shape, dtype=kind)
    flat = torch.frombuffer(bytearray(path.read_bytes()[place.offset : place.end]), dtype=kind)
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


def rewritten(source: Path, target: Path, replaced: dict[str, bytes], *, method: int = zipfile.ZIP_STORED, without: str = "\0") -> Path:
    """The archive with some members replaced, all of them compressed or none."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            short = name.partition("/")[2]
            if without not in name:
                new.writestr(name, replaced.get(short, old.read(name)))
    return target


@pytest.mark.parametrize("trace", [False, True], ids=["scripted", "traced"])
def test_names_order_and_numbers_are_those_of_the_state_dict(tmp_path: Path, trace: bool) -> None:
    """Lists of modules, shared modules and weights, buffers of both kinds, strided tensors; no plain attribute."""
    path = saved(tmp_path / "net.pt", trace=trace)
    layout, expected = FORMAT.layout(path), torch.jit.load(path).state_dict()
    table = layout.tables[()]
    assert list(table) == list(expected)
    assert "passing" in table and "plain" not in table
    for name, value in expected.items():
        assert str(value.dtype) == f"torch.{table[name].dtype}"
        assert torch.equal(read(path, table[name]), value)
    assert table["blocks.0.weight"] == table["blocks.1.weight"] == table["again.weight"]
    assert (layout.foreign, layout.odd, layout.files) == ((), {}, ("net.pt",))


def test_a_patched_weight_changes_what_the_module_computes_and_nothing_else(tmp_path: Path) -> None:
    """The archive with one weight zero loads and answers as the module with that weight zero does."""
    path, x = saved(tmp_path / "net.pt"), torch.randn(2, 4)
    layout = FORMAT.layout(path)
    place = layout.tables[()]["blocks.0.weight"]
    before, after = path.read_bytes(), patched(layout, place.offset + 4 * 5, bytes(4))
    path.write_bytes(after)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    torch.manual_seed(0)
    net = Net().eval()
    dense = net(x)
    net.blocks[0].weight.data[1, 1] = 0
    assert torch.equal(torch.jit.load(path)(x), net(x))
    assert not torch.equal(dense, net(x))
    checksums = {at for check in layout.checks for one in check.stored for at in range(one, one + 4)}
    changed = {at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    assert changed <= checksums | set(range(place.offset + 20, place.offset + 24))


def test_every_member_that_holds_a_tensor_has_its_checksum(tmp_path: Path) -> None:
    """Each place lies in the range of exactly one, and two copies of it are renewed at least."""
    layout = FORMAT.layout(saved(tmp_path / "net.pt"))
    for place in layout.tables[()].values():
        (check,) = (one for one in layout.checks if one.start <= place.offset < one.start + one.length)
        assert place.end <= check.start + check.length and len(check.stored) >= 2


def test_weights_packed_for_quantized_kernels_are_odd(tmp_path: Path) -> None:
    """They are in no state dict, and no plain numbers. The pickle is what torch writes for a packed layer, without its tensors."""
    opcodes = (
        b"\x80\x02c__torch__\nNet\n)\x81}X\x06\x00\x00\x00packedc__torch__.torch.classes.quantized\nLinearPackedParamsBase\n)\x81)bsb."
    )
    path = rewritten(saved(tmp_path / "net.pt"), tmp_path / "packed.pt", {"data.pkl": opcodes})
    assert FORMAT.layout(path).odd == {"packed": "packed by the class quantized.LinearPackedParamsBase"}


def test_classes_without_source_count_every_tensor(tmp_path: Path) -> None:
    """Sources name the parameters; without them a plain attribute counts too."""
    source = saved(tmp_path / "net.pt")
    with zipfile.ZipFile(source) as archive:
        empty = {name.partition("/")[2]: b"" for name in archive.namelist() if "/code/" in name}
    path = rewritten(source, tmp_path / "bare.pt", empty)
    assert {"plain", "turned"} <= FORMAT.layout(path).tables[()].keys()


def test_sources_are_read_as_text() -> None:
    """Parameters and buffers of a module, a class that is none, and a source of torch before 1.6."""
    source = (
        'class A(Module):\n  __parameters__ = ["w", "b", ]\n  __buffers__ = []\n  w : Tensor\n'
        'class B:\n  w : Tensor\nclass C(Module):\n  __parameters__ = ["w", ]\n  w : Tensor\n'
    )
    classes = script_tree.classes_in(source)
    assert [classes["A"].holds(name) for name in ("w", "b", "c")] == [True, True, False]
    assert [classes[name].is_module for name in "ABC"] == [True, False, True]
    assert classes["C"].holds("c")


def test_compressed_storages_are_odd(tmp_path: Path) -> None:
    """Numbers that are not there as they are have no place."""
    path = rewritten(saved(tmp_path / "net.pt"), tmp_path / "small.pt", {}, method=zipfile.ZIP_DEFLATED)
    layout = FORMAT.layout(path)
    assert not layout.tables[()] and "compressed" in layout.odd["turned"]


def test_names_that_torch_would_not_write_are_refused_and_never_run(tmp_path: Path) -> None:
    """A pickle that would make a file is an error, or, trusted, read as data; the file is not made."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "made"), "w")

    bomb = pickle.dumps({"x": Bomb()}, 2)
    path = rewritten(saved(tmp_path / "net.pt"), tmp_path / "bomb.pt", {"data.pkl": bomb})
    assert FORMAT.recognises(path)
    with pytest.raises(UnsafePickle, match="open"):
        FORMAT.layout(path)
    with pytest.raises(UnreadableFile, match="no script module"):
        FORMAT.layout(path, trust=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("replaced", "without", "said"),
    [
        ({"data/0": bytes(4)}, "\0", "lies in 4"),
        ({}, "/data/0", "no member 'net/data/0'"),
        ({"byteorder": b"big"}, "\0", "most significant byte first"),
        ({"data.pkl": b"\x80\x02}."}, "\0", "no script module"),
        ({"data.pkl": b"\x80\x02c__torch__\nA\n)\x81q\0}X\x01\0\0\0ah\0sb."}, "\0", "nested more than 100 deep"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, replaced: dict[str, bytes], without: str, said: str) -> None:
    """Storages too short or missing, the other byte order, no module, a module that contains itself."""
    path = rewritten(saved(tmp_path / "net.pt"), tmp_path / "bad.pt", replaced, without=without)
    with pytest.raises(UnreadableFile, match=said):
        FORMAT.layout(path)


def test_a_module_that_multiplies_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty modules, each twice in the next, are 2^40 names: refused by the bound on their letters."""
    monkeypatch.setattr(script_tree, "TEXT_LIMIT", 10_000)
    nest = b"c__torch__\nA\n)\x81}b"
    for _ in range(40):
        nest += b"q\x01" + b"0c__torch__\nA\n)\x81}(X\x01\0\0\0ah\x01X\x01\0\0\0bh\x01ub"
    path = rewritten(saved(tmp_path / "net.pt"), tmp_path / "bad.pt", {"data.pkl": b"\x80\x02" + nest + b"."})
    with pytest.raises(UnreadableFile, match="without an end"):
        FORMAT.layout(path)


def test_no_other_format_recognises_it_and_it_recognises_no_other(tmp_path: Path) -> None:
    """A plain torch file, a program of torch.export and a script are three kinds."""
    script = saved(tmp_path / "net.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text("PK")
    assert [kind.recognises(script) for kind in (FORMAT, Exported(), TorchZip())] == [True, False, False]
    assert [FORMAT.recognises(tmp_path / name) for name in ("plain.pt", "text.pt", ".")] == [False] * 3


def test_no_mutation_escapes_as_anything_but_a_sentence(tmp_path: Path) -> None:
    """Flipped bytes and cut tails: a layout whose places lie inside, or an error of ours."""
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    raw, path, generator, outcomes = stream.getvalue(), tmp_path / "net.pt", random.Random(0), set()
    for _ in range(200):
        mutated = bytearray(raw[: generator.choice([len(raw), len(raw), generator.randrange(1, len(raw))])])
        for _ in range(generator.randrange(4)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        path.write_bytes(mutated)
        FORMAT.recognises(path)
        try:
            outcomes.add(all(0 <= place.offset <= place.end <= len(mutated) for place in FORMAT.layout(path).tables[()].values()))
        except SparsifyError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}


@pytest.mark.parametrize(("name", "tensors"), [("derived_resnet20_torchscript.ts", 116), ("silero_vad.jit", 30)])
def test_published_archives_read_as_torch_reads_them(name: str, tensors: int) -> None:
    """Names, order and numbers of the state dict of each."""
    path = SHARED / "loader_zoo" / name
    if not path.is_file():
        pytest.skip("the published checkpoints are not beside this folder")
    table, expected = FORMAT.layout(path).tables[()], torch.jit.load(path).state_dict()
    assert list(table) == list(expected) and len(table) == tensors
    assert all(torch.equal(read(path, table[key]), value) for key, value in expected.items())
