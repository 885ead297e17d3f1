"""Claim: checkpoints that other people trained and saved go through the tool as they are, or are refused in one sentence.

Source: house rules 1 and 6, on published checkpoints that are not part of this repository: He et al. 2015 (arXiv
1512.03385) ResNet-20 for CIFAR-10 as trained by Y. Idelbayev, and files of many kinds and programs.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sparsify_cli.cli.app import main
from sparsify_cli.stages.subject import open_path

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
KINDS = {".pt", ".pth", ".th", ".tar", ".ckpt", ".model", ".safetensors", ".ts", ".jit", ".net", ".hdf5", ".onnx", ".bin"}
FOREIGN = {".net", ".hdf5"}
"""Kinds that hold no named tensors we read: each must be refused."""
FILES = sorted(path for folder in (*SHARED.glob("ckpt_*"), SHARED / "loader_zoo", SHARED / "denoise") for path in folder.rglob("*"))
FILES = [path for path in FILES if path.is_file() and path.suffix in KINDS]
RESNET20 = SHARED / "ckpt_cifar10/resnet20-12fca82f.th"
needs_files = pytest.mark.skipif(not RESNET20.is_file(), reason="the published checkpoints are not here")
pytestmark = [pytest.mark.slow, needs_files]


def sha256(path):
    """Identity of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("path", FILES or [RESNET20], ids=lambda path: path.name)
def test_any_checkpoint_can_be_looked_at(path, capsys):
    """Exit 0 with a table, or exit 2 with one sentence that names the file; never a traceback, nothing written or changed."""
    before = sha256(path)
    code = main(["inspect", str(path)])
    said = capsys.readouterr()
    assert sha256(path) == before
    assert list(Path.cwd().iterdir()) == []
    assert "Traceback" not in said.err and "Warning" not in said.err
    assert code == (2 if path.suffix in FOREIGN else code) and code in {0, 2}
    if code == 0:
        assert "tensors" in said.out and path.name in said.out
    else:
        assert said.out == ""
        assert said.err.startswith("error: ") and path.name in said.err and len(said.err.strip().splitlines()) == 1


def original():
    """ResNet-20's tensors as torch reads them, without the wrapper and the prefix."""
    state = torch.load(RESNET20, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "flags", [[], ["--pattern", "2:4"], ["--allocation", "erk", "--criterion", "lamp"]], ids=["plain", "2:4", "erk lamp"]
)
def test_resnet20_is_pruned_without_data(flags, capsys):
    """80 % of its 268,336 convolution and linear weights become zero, to the weight; everything else keeps its bits."""
    before, identity = original(), sha256(RESNET20)
    assert main(["prune", str(RESNET20), "--sparsity", "0.8", "--out", "pruned", *flags]) == 0
    found, capture = open_path(Path("pruned")), capsys.readouterr()
    assert sha256(RESNET20) == identity and "Traceback" not in capture.err
    assert list(found.checkpoint.tensors.keys() ^ before.keys()) == []
    assert (found.masks.total, found.masks.total - found.masks.kept) == (268_336, round(268_336 * Fraction(8, 10)))
    for name, tensor in before.items():
        wanted = torch.where(found.masks[name], tensor, 0) if name in found.masks else tensor
        assert torch.equal(found.checkpoint.tensors[name], wanted)
    assert {name for name in before if before[name].ndim > 1} == set(found.masks)


@pytest.mark.parametrize(
    "name", ["derived_resnet20_compile_prefix.pt", "derived_resnet20_legacy_tar_format.pth", "derived_resnet20_lightning.ckpt"]
)
def test_the_same_network_from_other_files(name):
    """Torch.compile's prefix, the tar format of old, Lightning's wrapper: the same 97 tensors, bit for bit, names maybe prefixed."""
    found = open_path(SHARED / "loader_zoo" / name).checkpoint.tensors
    expected = original()
    assert len(found) == len(expected) == 97
    for (theirs, mine), (ours, tensor) in zip(found.items(), expected.items(), strict=True):
        assert theirs.endswith(ours) and torch.equal(mine, tensor)
