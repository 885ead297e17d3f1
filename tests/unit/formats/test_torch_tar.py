"""Torch's first checkpoints, tar archives: every tensor where torch reads it, damage told, written anew as the kind that followed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.formats.torch_tar import TorchTar
from tests.torch_files import Hostile, same_bits, survives, tensors_of, write_tar

TAR = TorchTar()
TENSORS = {
    "conv.weight": torch.arange(24.0).reshape(2, 3, 4),
    "conv.bias": torch.tensor([1.5, -2.0]),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
}
TENSORS["turned"] = TENSORS["turned"].contiguous()


def saved(name: str = "m.pth") -> Path:
    """A tar checkpoint in the current folder."""
    write_tar(Path(name), TENSORS)
    return Path(name)


def test_every_tensor_lies_where_it_was_written() -> None:
    """Views on one storage, told in one part of the archive and used in another."""
    layout = TAR.layout(saved())
    found = tensors_of(layout)
    assert list(found) == list(TENSORS)
    assert all(same_bits(found[name], tensor) for name, tensor in TENSORS.items())
    assert (layout.kind, layout.files, layout.others, layout.odd) == ("torch-tar", ("m.pth",), {}, {})


def test_what_it_recognises() -> None:
    """Archives with these members; not other archives, not torch's other kinds, not cut-off headers."""
    saved("a.tar")
    torch.save({}, "z.pt")
    torch.save({}, "old.pt", _use_new_zipfile_serialization=False)
    with tarfile.open("b.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    Path("c.tar").write_bytes(Path("a.tar").read_bytes()[:400])
    names = ("a.tar", "z.pt", "old.pt", "b.tar", "c.tar", ".", "nothing")
    assert [TAR.recognises(Path(name)) for name in names] == [True] + [False] * 6


def test_code_is_named_and_not_run() -> None:
    """A bomb in place of the content is refused."""
    import pickle

    from sparsify_cli.errors import UnsafePickle

    path = saved()
    with tarfile.open(path) as old:
        parts = {member.name: old.extractfile(member).read() for member in old}
    for name in ("pickle", "tensors", "storages"):
        with tarfile.open("bad.tar", "w") as new:
            for part, data in parts.items():
                data = pickle.dumps(Hostile(), 2) if part == name else data
                info = tarfile.TarInfo(part)
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
        with pytest.raises((UnsafePickle, UnreadableFile), match=r"bad\.tar"):
            TAR.layout(Path("bad.tar"))
    assert not Path("exploded").exists()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_file_that_is_cut_off(share: float) -> None:
    """A part that is missing or reaches past the end is told."""
    path = saved()
    end = path.read_bytes().rstrip(b"\0")
    path.write_bytes(end[: int(len(end) * share)])
    with pytest.raises(UnreadableFile, match=r"m\.pth .*(holds no|tar)"):
        TAR.layout(path)


def test_written_anew_as_the_next_kind() -> None:
    """Torch writes no tar archives any more; every torch reads the old kind that followed them."""
    layout = TAR.layout(saved())
    TAR.rebuild(layout, (), {"w": torch.ones(2)}, Path("."), others=True)
    assert torch.load("m.pth", weights_only=True)["w"].tolist() == [1, 1]
    assert not TAR.recognises(Path("m.pth"))


def test_mutations() -> None:
    """Three hundred mutations: places within the file, or one sentence."""
    assert 0 < survives(TAR, saved(), range(300)) < 300
