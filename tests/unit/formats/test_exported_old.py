"""Programs that torch 2.8 and before exported: weights in a torch file inside the archive, changed there, checksums of both renewed."""

from __future__ import annotations

import io
import random
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sparsify_cli.cli.app import main
from sparsify_cli.errors import Infeasible, UnreadableFile, UnsafePickle
from sparsify_cli.formats.exported import Exported
from sparsify_cli.formats.torch_zip import TorchZip
from sparsify_cli.formats.torchscript import Torchscript
from sparsify_cli.values.patch_file import write_patched
from tests.old_programs import WRITERS, inner_archive, load_old, write_28, write_before_28
from tests.torch_files import Hostile, mutated, same_bits, survives, tensor_at

FORMAT = Exported()
WEIGHTS = {"2.7": "serialized_state_dict.pt", "2.8": "net/data/weights/model.pt"}


class Net(nn.Module):
    """Tied, strided, narrow and passing tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.turned = nn.Parameter(torch.randn(4, 4).T)
        self.register_buffer("scale", torch.ones(4, dtype=torch.bfloat16))
        self.register_buffer("passing", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Four numbers to four."""
        return (self.first(x) + self.tied(x)) @ self.turned * self.scale.float() + self.passing


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    """One program, exported once."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch doubts tensors that are not contiguous; it keeps them
        return torch.export.export(Net().eval(), (torch.randn(2, 4),))


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, program: ExportedProgram) -> Path:
    """An archive of each release."""
    return WRITERS[request.param](Path("net.pt2"), program)


def saved(content: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def holding(release: str, inner: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    """An archive with whatever in the place of its weights."""
    beside = {"2.7": "serialized_exported_program.json", "2.8": "net/archive_format"}
    with zipfile.ZipFile("net.pt2", "w", method) as archive:
        archive.writestr(beside[release], "x")
        archive.writestr(WEIGHTS[release], inner)
        archive.writestr("net/last", bytes(1000))
    return Path("net.pt2")


def require_sound(path: Path) -> None:
    """No checksum of the archive, or of that in it, is wrong."""
    with zipfile.ZipFile(io.BytesIO(inner_archive(path))) as inner:
        assert inner.testzip() is None


def test_names_order_and_numbers_are_those_of_the_program(path: Path) -> None:
    """Every weight lies where it is in the whole file, tied and strided ones too; the checksums are four and the one around them."""
    layout, expected = FORMAT.layout(path), load_old(path).state_dict
    table = layout.tables[()]
    assert list(table) == list(expected) and layout.tables.keys() == {()}
    assert all(same_bits(tensor_at(layout.root, table[name]), value.detach()) for name, value in expected.items())
    assert table["first.weight"] == table["tied.weight"] and table["turned"].strides == (1, 4)
    *inner, outer = layout.checks
    assert len(inner) == 4
    assert all(outer.start < at < outer.start + outer.length for check in inner for at in check.stored)


def test_no_other_format_recognises_it(path: Path) -> None:
    """An archive in an archive is neither of the two kinds that the inner one could be."""
    assert [kind.recognises(path) for kind in (FORMAT, TorchZip(), Torchscript())] == [True, False, False]


def test_the_first_name_of_the_torch_file(program: ExportedProgram) -> None:
    """Torch 2.1 called it .json; of two the last counts, as for torch."""
    layout = FORMAT.layout(write_before_28(Path("net.pt2"), program, weights="serialized_state_dict.json"))
    assert same_bits(tensor_at(Path(), layout.tables[()]["first.weight"]), program.state_dict["first.weight"].detach())
    with zipfile.ZipFile("net.pt2", "a") as archive:
        archive.writestr("serialized_state_dict.pt", saved({"w": torch.ones(2)}))
    assert list(FORMAT.layout(Path("net.pt2")).tables[()]) == ["w"]


@pytest.mark.parametrize("turn", [1, -1])
def test_checksums_within_are_renewed_before_the_one_around(path: Path, turn: int) -> None:
    """A patched copy is sound inside and outside, in whatever order the checks are named, and computes with the new weight."""
    layout, x, before = FORMAT.layout(path), torch.randn(2, 4), path.read_bytes()
    place = layout.tables[()]["first.weight"]
    Path("new").mkdir()
    write_patched(replace(layout, checks=layout.checks[::turn]), Path("new"), {"first.weight": (place, np.zeros(16, dtype=np.uint32))})
    require_sound(Path("new/net.pt2"))
    torch.manual_seed(0)
    net = Net().eval()
    net.first.weight.data.zero_()
    assert torch.equal(load_old(Path("new/net.pt2")).module()(x), net(x))
    checksums = {at for check in layout.checks for one in check.stored for at in range(one, one + 4)}
    differing = {at for at, (old, new) in enumerate(zip(before, Path("new/net.pt2").read_bytes(), strict=True)) if old != new}
    assert differing <= checksums | set(range(place.offset, place.end))


@pytest.mark.parametrize("pad", range(4))
def test_weights_at_any_byte_are_pruned(program: ExportedProgram, pad: int) -> None:
    """Python's archives align nothing: a weight may begin at any byte. The result is sound and half of it is zero."""
    path = write_before_28(Path("net.pt2"), program, pad=pad)
    assert main(["prune", str(path), "--sparsity", "0.5", "--out", "out"]) == 0
    require_sound(Path("out/net.pt2"))
    starts = {write_before_28(Path("other.pt2"), program, pad=n).read_bytes().index(b"archive/data/0") % 4 for n in range(4)}
    assert starts == {0, 1, 2, 3}
    before, after = program.state_dict, load_old(Path("out/net.pt2")).state_dict
    pruned = [name for name in ("first.weight", "turned") if not torch.equal(before[name], after[name])]
    assert sum(int((after[name] == 0).sum()) for name in pruned) == 8 * len(pruned) > 0
    assert torch.equal(after["first.bias"], before["first.bias"]) and torch.equal(after["tied.weight"], after["first.weight"])


def test_an_archive_of_several_models_has_a_table_for_each(program: ExportedProgram) -> None:
    """Under the model's name, as is what is beside them; each file has its storages' checksums and the one around them."""
    odd = saved({"w": torch.eye(2).to_sparse(), "v": torch.ones(2), "epoch": 3})
    layout = FORMAT.layout(write_28(Path("net.pt2"), program, program, weights={"model1": odd}))
    assert {key: list(table) for key, table in layout.tables.items()} == {("model",): list(program.state_dict), ("model1",): ["v"]}
    assert (layout.odd, layout.others) == ({"model1.w": "stored sparse"}, {"model1.epoch": "int 3"})
    assert len(layout.checks) == (4 + 1) + (1 + 1)


def test_the_torch_file_counts_where_there_is_a_table_too() -> None:
    """As for torch."""
    path = holding("2.8", saved({"w": torch.ones(2)}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/weights/model_weights_config.json", '{"config": {}}')
    assert {key: list(table) for key, table in FORMAT.layout(path).tables.items()} == {(): ["w"]}


def test_a_program_without_weights_has_none() -> None:
    """Torch wrote nothing at all for them."""
    for release in WEIGHTS:
        assert FORMAT.layout(holding(release, b"")).tables == {}


def test_a_compressed_file_of_weights_is_refused() -> None:
    """Nothing in it lies anywhere; the sentence says which file and what to do."""
    for release, name in WEIGHTS.items():
        with pytest.raises(UnreadableFile, match=f"{name}.*compressed.*torch.export.save"):
            FORMAT.layout(holding(release, saved({"w": torch.ones(2)}), zipfile.ZIP_DEFLATED))


def bomb() -> bytes:
    """An archive whose pickle is a thousand times as long as the file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 26))
    return buffer.getvalue()


def stretched() -> bytes:
    """An archive whose last storage is said to reach behind it, into what follows in the archive around it."""
    whole = saved({"w": torch.ones(16)})
    at = whole.rindex(b"PK\x05\x06")
    return whole[: at + 12] + (len(whole)).to_bytes(4, "little") + whole[at + 16 :]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no archive": (lambda: b"\0" * 500, "does not begin with a member"),
    "legacy": (lambda: saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False), "does not begin with a member"),
    "cut": (lambda: saved({"w": torch.ones(2)})[:-100], "cut off"),
    "behind its end": (stretched, "reaches past byte"),
    "another archive": (lambda: Path("other.zip").read_bytes(), "holds no x/data.pkl"),
    "bomb": (bomb, "when decompressed"),
    "big": (lambda: saved({"w": torch.ones(2)}).replace(b"little", b"biggie"), "byte order"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("release", WEIGHTS)
def test_whatever_is_in_the_place_of_the_torch_file_is_refused_in_a_sentence(release: str, what: str) -> None:
    """Nothing there, the other way of saving, cut off, reaching into its neighbours, another archive, a bomb, another byte order."""
    with zipfile.ZipFile("other.zip", "w") as archive:
        archive.writestr("x/y", "z")
    make, said = HOSTILE[what]
    with pytest.raises(UnreadableFile, match=said) as caught:
        FORMAT.layout(holding(release, make()))
    assert "net.pt2" in str(caught.value)


@pytest.mark.parametrize("release", WEIGHTS)
def test_code_in_it_is_refused_and_never_run(release: str) -> None:
    """Torch would run it; here the pickle is data, read only when it is trusted."""
    path = holding(release, saved({"w": torch.ones(2), "bad": Hostile()}))
    with pytest.raises(UnsafePickle, match="getattr"):
        FORMAT.layout(path)
    layout = FORMAT.layout(path, trust=True)
    assert list(layout.tables[()]) == ["w"] and layout.foreign == ("builtins.getattr",)
    assert not Path("exploded").exists()


def test_it_is_never_written_anew(path: Path) -> None:
    """Changed names or shapes would need another graph."""
    with pytest.raises(Infeasible, match="exported"):
        FORMAT.rebuild(FORMAT.layout(path), (), {}, Path(), others=True)


def test_no_mutation_escapes_as_anything_but_a_sentence(path: Path) -> None:
    """Damage anywhere in the archive, most often at its ends: places inside, or an error of ours."""
    assert 0 < survives(FORMAT, path, range(250)) < 250


@pytest.mark.parametrize("release", WEIGHTS)
def test_no_mutation_of_the_inner_archive_escapes_either(release: str) -> None:
    """The same inside a sound archive: what the inner one claims is held against its own end."""
    whole, outcomes = saved({"w": torch.ones(3, 5), "v": torch.ones(4).double()}), set()
    for seed in range(250):
        inner = mutated(whole, random.Random(seed))
        path = holding(release, inner)
        start = path.read_bytes().index(inner[:40]) if len(inner) > 40 else 0
        try:
            places = [place for table in FORMAT.layout(path).tables.values() for place in table.values()]
            outcomes.add(all(start <= place.offset <= place.end <= start + len(inner) for place in places))
        except (UnreadableFile, UnsafePickle) as error:
            outcomes.add("net.pt2" in str(error) and "refused")
    assert outcomes == {True, "refused"}
