"""Claim: any checkpoint goes in and the same kind of checkpoint comes out; nothing but the weights that went differs by a bit.

Every kind is made here and loaded as its users load it. What is expected is made without the tool's readers: the bytes of
each tensor, as its usual loader gives them, are looked for in the original file and replaced there; so are the CRC-32s.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from sparsify_cli.cli.app import main
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.mask_file import read_masks
from sparsify_cli.values.mask_set import MaskSet
from tests.kinds import Kind, Table, multiplied, opened, same, stored
from tests.kinds_graphs import KINDS, load_onnx, load_script
from tests.kinds_safetensors import load_shards
from tests.torch_files import flat

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
REAL = sorted(path for folder in (*SHARED.glob("ckpt_*"), SHARED / "loader_zoo") for path in (*folder.glob("*"), *folder.glob("*/port.pt")))
REAL = [path for path in REAL if path.is_dir() or path.suffix not in {".md", ""}]
REFUSED = {
    "gender_mini_XCEPTION.21-0.95.hdf5": "is an HDF5 file",
    "stories260K.bin": "of an unknown kind",
    "tok512.bin": "of an unknown kind",
    "compressed_SqueezeNet.net": "of an unknown kind",
    "checkpoint_trained_channel_regularized_resnet20_finetuned.pth.tar": "distiller.thinning.ThinningRecipe",
}
"""Files of other people that are refused, and a part of why: Keras, plain numbers of C programs, code."""

WRAPPERS = ("state_dict.module.", "state_dict.", "model.", "_orig_mod.", "")
OUT = Path("pruned")
COPIED = [name for name, kind in KINDS.items() if kind.folded is None]
FOLDED = [name for name, kind in KINDS.items() if kind.folded is not None]
RUN = [name for name, kind in KINDS.items() if kind.run is not None]
MADE: dict[str, Path] = {}


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path):
    """A function: a fresh copy of one kind, in a folder of its own; each kind is made once."""

    def make(name: str) -> tuple[Kind, Path]:
        kind = KINDS[name]
        if name not in MADE:
            MADE[name] = kind.make(tmp_path_factory.mktemp("kind"))
        whole = MADE[name] if MADE[name].is_dir() else MADE[name].parent
        shutil.copytree(whole, tmp_path / "given")
        return kind, tmp_path / "given" / MADE[name].relative_to(whole)

    return make


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder -> sha256."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def pruned(path: Path, *flags: str, out: Path = OUT) -> Path:
    """Inspect and prune; the path of the result as its users name it. The input stays what it was."""
    given = path if path.is_dir() else path.parent
    before = hashes(given)
    trust = [flag for flag in flags if flag == "--trust-pickle"]
    assert main(["inspect", str(path), *trust]) == 0
    assert main(["prune", str(path), "--sparsity", "0.8", "--out", str(out), *flags]) == 0
    assert hashes(given) == before
    return out / json.loads((out / "manifest.json").read_text())["weights"]["file"]


def dense(kind: Kind, path: Path) -> Table:
    """What the original's users have, masks of other tools applied."""
    table = kind.load(path)
    return kind.folded(table) if kind.folded else table


def in_memory(weights: Mapping[str, Tensor]) -> MaskSet:
    """The masks that magnitude chooses when all weights are at hand; narrow numbers are compared as the wider ones they are."""
    scores = {
        name: tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32) if tensor.itemsize > 1 else torch.float32).abs()
        for name, tensor in weights.items()
    }
    return choose_masks(scores, pattern=Pattern(), sparsity=Fraction(4, 5), allocation="global")


def check(kind: Kind, before: Table, after: Table) -> None:
    """Exact count, the masks of `choose_masks`, weights that are the old ones or zero, and nothing else changed."""
    names = kind.weights(before)
    masks, wanted = read_masks(OUT / "masks.safetensors"), in_memory({ours: before[theirs] for ours, theirs in names.items()})
    total = sum(before[name].numel() for name in names.values())
    assert (masks.total, masks.total - masks.kept) == (total, round(total * Fraction(4, 5)))
    assert set(masks) == set(names) and all(torch.equal(masks[name], wanted[name]) for name in names)
    assert after.keys() == before.keys()
    moved = {theirs: torch.where(wanted[ours], before[theirs], torch.zeros_like(before[theirs])) for ours, theirs in names.items()}
    first = {tensor.data_ptr(): name for name, tensor in reversed(before.items()) if tensor.numel() and name in moved}
    for name, tensor in before.items():
        expected = moved.get(name, moved.get(first.get(tensor.data_ptr(), ""), tensor))
        assert same(after[name].detach(), expected.detach()), name


def expected_bytes(data: bytes, before: Table, after: Table, names: list[str]) -> bytes:
    """The original file with the bytes of each weight replaced where they stand, and the checksums over them."""
    for name in names:
        assert data.count(stored(before[name])) <= 1, f"{name} is not to be found for certain"
        data = data.replace(stored(before[name]), stored(after[name]))
    return _summed(data) if data.startswith(b"PK\x03\x04") else data


def _summed(data: bytes) -> bytes:
    """An archive whose checksums fit its members, by Python's own reader of directories; so do those of archives in it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            start = member.header_offset + 30 + sum(struct.unpack_from("<HH", data, member.header_offset + 26))
            old = data[start : start + member.compress_size]
            content = _summed(old) if old.startswith(b"PK\x03\x04") else old
            if member.compress_type == zipfile.ZIP_STORED and zlib.crc32(content) != member.CRC:
                rest = (data[:start], data[start + len(content) :])
                swapped = [part.replace(struct.pack("<I", member.CRC), struct.pack("<I", zlib.crc32(content))) for part in rest]
                data = swapped[0] + content + swapped[1]
    return data


@pytest.mark.parametrize("name", KINDS)
def test_it_loads_where_the_original_did(name, made):
    """The usual loader reads the result; 80 % of the weights are zero, to the weight, those that memory would have chosen."""
    kind, path = made(name)
    before, others = dense(kind, path), kind.others(path)
    result = pruned(path, *kind.flags)
    check(kind, before, kind.load(result))
    assert same(kind.others(result), others)
    assert result.name == ("model" if path.is_dir() else path.name)


@pytest.mark.parametrize("name", COPIED)
def test_every_other_byte_is_the_original_s(name, made):
    """All files of the result are the original's, but for the bytes of pruned weights and the checksums over them."""
    kind, path = made(name)
    result = pruned(path, *kind.flags)
    before, after = kind.load(path), kind.load(result)
    names = list(kind.weights(before).values())
    root, given = (result, path) if path.is_dir() else (result.parent, path.parent)
    files = [file.name for file in sorted(given.iterdir()) if path.is_dir() or file.name not in {"config.json", "tokenizer.json"}]
    changed = 0
    for file in files:
        original, found = (given / file).read_bytes(), (root / file).read_bytes()
        assert found == expected_bytes(original, before, after, names), file
        changed += found != original
    assert changed > 0
    assert not path.is_dir() or sorted(file.name for file in result.iterdir()) == files


@pytest.mark.parametrize("name", RUN)
def test_it_runs_where_the_original_did(name, made):
    """The pruned graph computes something else than the original, and the same each time."""
    kind, path = made(name)
    result = pruned(path)
    assert kind.run is not None
    before, after = kind.run(path), kind.run(result)
    assert after.shape == before.shape and bool(after.isfinite().all())
    assert not torch.equal(before, after) and torch.equal(after, kind.run(result))


@pytest.mark.parametrize("name", ["tied", "views", "views legacy"])
def test_what_was_one_memory_is_one_memory(name, made):
    """Tensors that shared memory when the original was loaded share it when the result is loaded."""
    kind, path = made(name)
    result = pruned(path)

    def shared(table: Table) -> dict[str, tuple[int, int]]:
        storages = {tensor.untyped_storage().data_ptr(): None for tensor in table.values()}
        number = {pointer: index for index, pointer in enumerate(storages)}
        return {name: (number[t.untyped_storage().data_ptr()], t.storage_offset()) for name, t in table.items()}

    before, after = shared(kind.load(path)), shared(kind.load(result))
    assert before == after
    assert len({storage for storage, _ in after.values()}) < len(after)


def test_an_embedding_that_is_the_output_layer_stays_dense():
    """Language models tie their output to their embedding: neither is pruned, under either name."""
    table = {"wte.weight": torch.randn(12, 6), "fc.weight": torch.randn(6, 6)}
    torch.save(table | {"lm_head.weight": table["wte.weight"]}, "model.pt")
    assert main(["prune", "model.pt", "--sparsity", "0.8", "--out", str(OUT)]) == 0
    found = torch.load(OUT / "model.pt", weights_only=True)
    assert found["lm_head.weight"].data_ptr() == found["wte.weight"].data_ptr()
    assert torch.equal(found["wte.weight"], table["wte.weight"])
    assert int((found["fc.weight"] == 0).sum()) == 29  # 0.8 * 36 = 28.8


@pytest.mark.parametrize(
    "name", ["bare", "lightning", "torch.bfloat16", "safetensors", "shards", "scripted", "exported", "exported 2.8", "ONNX external"]
)
def test_results_go_further(name, made):
    """A pruned artifact is pruned further to 2:4 and packed; the second masks lie within the first."""
    _, path = made(name)
    pruned(path)
    assert main(["prune", str(OUT), "--sparsity", "0.9", "--pattern", "2:4", "--out", "again"]) == 0
    first, second = read_masks(OUT / "masks.safetensors"), read_masks(Path("again/masks.safetensors"))
    assert set(first) == set(second)
    assert all(not bool((second[layer] & ~first[layer]).any()) for layer in first)
    total = first.total
    assert second.total - second.kept == round(total * Fraction(9, 10))
    assert main(["export", "again", "--to", "packed", "--out", "small"]) == 0
    assert list(Path("small").iterdir())


def load_real(path: Path) -> Table:
    """Every tensor of somebody's file, by the loader its users would use."""
    if path.is_dir():
        found = next(path.glob("port.pt"), None)
        return load_real(found) if found else load_language_model(path) if (path / "config.json").is_file() else load_shards(path)
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if path.suffix in {".ts", ".jit"}:
        return load_script(path)
    return load_onnx(path) if path.suffix == ".onnx" else flat(opened(path))


def load_language_model(path: Path) -> Table:
    """By transformers, from the folder alone."""
    transformers = pytest.importorskip("transformers")
    return dict(transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype="auto").state_dict())


def real(names: set[str], table: Table) -> Kind:
    """What is expected of somebody's file whose prunable tensors have these names, under one of the usual wrappers."""
    prefix = next(prefix for prefix in WRAPPERS if all(prefix + name in table for name in names))
    return Kind(Path, load_real, lambda table: {name: prefix + name for name in names})


@pytest.mark.parametrize(
    "path", [path for path in REAL if path.name not in REFUSED] or [None], ids=lambda path: path.name if path else "none"
)
def test_checkpoints_of_other_people(path):
    """Each file that is here goes through inspect and prune and loads again; all but its weights is what it was."""
    if path is None:
        pytest.skip("the published checkpoints are not here")
    before = load_real(path)
    result = pruned(path)
    if masked := any(name.endswith("weight_mask") for name in before):
        before = multiplied("weight_orig", "weight_mask")(before)
    after, names = load_real(result), set(read_masks(OUT / "masks.safetensors"))
    kind = real(names, before)
    check(kind, before, after)
    if path.is_file() and not masked:
        weights = list(kind.weights(before).values())
        gone = sum(np.count_nonzero(removed(before[name], after[name])) for name in weights)
        one, other = (np.fromfile(file, dtype=np.uint8) for file in (path, result))
        sums = 12 * len(weights) if path.read_bytes()[:2] == b"PK" else 0  # up to three copies of four bytes
        assert one.shape == other.shape
        assert 0 <= np.count_nonzero(one != other) - gone <= sums


def removed(before: Tensor, after: Tensor) -> Tensor:
    """The bytes of the numbers that are zero only now."""
    return torch.where(after == 0, before, 0).contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_checkpoint_is_refused(name, capsys):
    """One sentence that says what it is, exit code 2, nothing written; the pickle that names code is read once it is trusted."""
    path = next((path for path in REAL if path.name == name), None)
    if path is None:
        pytest.skip("the published checkpoints are not here")
    for verb in (["inspect", str(path)], ["prune", str(path), "--sparsity", "0.8", "--out", str(OUT)]):
        assert main(verb) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("error: ") and REFUSED[name] in said[0]
    assert list(Path.cwd().iterdir()) == []
    trusted = main(["prune", str(path), "--sparsity", "0.8", "--out", str(OUT), "--trust-pickle"])
    assert trusted == (0 if "distiller" in REFUSED[name] else 2)
