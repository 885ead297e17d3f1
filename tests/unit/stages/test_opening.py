"""Checkpoint files: wrappers and prefixes taken off, damage and danger refused, nothing ever run."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import prune

from sparsify_cli.errors import MissingFile, NonFinite, UnreadableFile, UnsafePickle
from sparsify_cli.stages.opening import common_prefix
from sparsify_cli.stages.subject import open_path
from sparsify_cli.values.checkpoint import Checkpoint, Source, Spec
from sparsify_cli.values.mask_set import MaskSet


def read_checkpoint(path):
    """The checkpoint that a path holds."""
    return open_path(path).checkpoint


PLAIN = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([1.0, -1.0])}


def saved(content, name="model.pt", **options):
    """A torch file in the current folder."""
    torch.save(content, name, **options)
    return Path(name)


def same(found, expected=PLAIN):
    """The same names, in order, with the same tensors."""
    return list(found.tensors) == list(expected) and all(torch.equal(found.tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("content", "wrapper"),
    [
        (PLAIN, ()),
        ({"state_dict": PLAIN, "epoch": 3, "best": torch.tensor(0.5)}, ("state_dict",)),
        ({"model": PLAIN, "optimizer": {"state": {0: {"momentum": torch.ones(6)}}}}, ("model",)),
        ({"model": {"state_dict": PLAIN}}, ("model", "state_dict")),
        ({"model_state_dict": PLAIN, "loss": 0.1}, ("model_state_dict",)),
        ({"net": PLAIN, "acc": 91.0}, ("net",)),
    ],
    ids=["plain", "state_dict", "model", "both", "model_state_dict", "net"],
)
def test_a_wrapper_is_taken_off(content, wrapper):
    """Training scripts wrap their weights in many ways; the tensors and the way to them are found, bookkeeping is left."""
    checkpoint = read_checkpoint(saved(content))
    assert same(checkpoint)
    assert checkpoint.wrapper == wrapper


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_a_prefix_is_taken_off(prefix):
    """What data-parallel wrappers and torch.compile leave on every key goes, in any order."""
    checkpoint = read_checkpoint(saved({prefix + name: tensor for name, tensor in PLAIN.items()}))
    assert same(checkpoint)
    assert checkpoint.prefix == prefix


def test_a_prefix_of_some_keys_stays():
    """Only a prefix that all keys share is one."""
    assert common_prefix(["module.a", "b"]) == ""
    assert common_prefix([]) == ""
    assert common_prefix(["module._orig_mod.a", "module._orig_mod.b"]) == "module._orig_mod."


def test_safetensors_and_old_torch_files():
    """The same tensors from safetensors, from the zip format and from the one before it, whatever the file is called."""
    save_file(PLAIN, "a.safetensors")
    Path("b.bin").write_bytes(Path("a.safetensors").read_bytes())
    found = [read_checkpoint(Path(name)) for name in ("a.safetensors", "b.bin")]
    found += [read_checkpoint(saved(PLAIN, "c.th")), read_checkpoint(saved(PLAIN, "d.tar", _use_new_zipfile_serialization=False))]
    assert all(same(one, dict(sorted(PLAIN.items()))) or same(one) for one in found)


def test_the_source_is_remembered():
    """Path and sha256 of the bytes that were read."""
    path = saved(PLAIN)
    assert read_checkpoint(path).source == Source("model.pt", hashlib.sha256(path.read_bytes()).hexdigest())


def test_reading_does_not_change_the_file():
    """The bytes are as they were; changing the tensors read does not reach the file."""
    path = saved(PLAIN)
    before = path.read_bytes()
    read_checkpoint(path).tensors["conv.bias"].add_(1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [0, 1, 10, 200, -1, -40])
@pytest.mark.parametrize("old", [False, True])
def test_a_truncated_file_is_a_sentence(cut, old):
    """Cut anywhere: the path, and that it is damaged; no other exception."""
    path = saved(PLAIN, _use_new_zipfile_serialization=not old)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UnreadableFile, match=r"model\.pt"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 64, b"PK\x03\x04broken", b"\x89HDF\r\n\x1a\n" + b"\x01" * 50, b"<html></html>"])
def test_something_else_is_a_sentence(content):
    """Text, zeros, a broken zip, HDF5: exit code 2 and the path."""
    Path("model.pt").write_bytes(content)
    with pytest.raises((UnreadableFile, UnsafePickle), match=r"model\.pt"):
        read_checkpoint(Path("model.pt"))


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], torch.ones(3), {"state_dict": [3, 4]}, 7], ids=range(6))
def test_a_file_without_named_tensors(content):
    """It says what is there instead."""
    with pytest.raises(UnreadableFile, match=r"no named tensors.*It holds"):
        read_checkpoint(saved(content))


class Bomb:
    """Leaves a file behind when it is unpickled as code."""

    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_code_is_refused_and_not_run():
    """A pickle that needs code, in both torch formats and bare, is refused; its code does not run."""
    for old in (False, True):
        with pytest.raises(UnsafePickle, match="needs code"):
            read_checkpoint(saved({"w": torch.ones(2), "x": Bomb()}, _use_new_zipfile_serialization=not old))
    Path("bare.pkl").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises((UnsafePickle, UnreadableFile)):
        read_checkpoint(Path("bare.pkl"))
    assert not Path("exploded").exists()


def test_a_whole_module_is_refused_with_its_class():
    """torch.save(model) needs the model's code: the sentence names it and says what to save instead."""
    buffer = io.BytesIO()
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), buffer)
    Path("model.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UnsafePickle, match=r"torch\.nn\.modules.*state_dict"):
        read_checkpoint(Path("model.pt"))


def test_nothing_there():
    """A missing file and a folder."""
    with pytest.raises(MissingFile, match=r"nowhere\.pt"):
        read_checkpoint(Path("nowhere.pt"))
    with pytest.raises(MissingFile, match="folder without"):
        read_checkpoint(Path.cwd())


def test_weights_that_are_no_numbers():
    """NaN and infinity are counted by name; integers are none of this."""
    Checkpoint({**PLAIN, "steps": torch.tensor(3)}, Source("m", "")).require_finite()
    bad = {"a": torch.tensor([1.0, float("nan"), float("inf")]), "b": torch.ones(2), "c": torch.tensor([float("-inf")])}
    with pytest.raises(NonFinite, match=r"2 tensors of m .*a \(2\), c \(1\)"):
        Checkpoint(bad, Source("m", "")).require_finite()


def test_a_checkpoint_counts_its_numbers():
    """Floats only: 6 + 2; counters do not count. A copy with other tensors keeps its source."""
    checkpoint = Checkpoint({**PLAIN, "num_batches_tracked": torch.tensor(9)}, Source("m", "x"), ("state_dict",), "module.")
    assert checkpoint.parameters == 8
    other = checkpoint.with_tensors({"a": torch.ones(3)})
    assert (other.parameters, other.source, other.wrapper, other.prefix) == (3, Source("m", "x"), ("state_dict",), "module.")


def test_a_spec_survives_json():
    """Name and options come back; null is none."""
    spec = Spec("cnn", {"width": 16})
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_json(None) is None


def test_pairs_of_torch_prune_are_one_tensor():
    """X_orig [1, -2, 3, inf] and X_mask [1, 0, 1, 0] are X = [1, +0, 3, +0], in the place of the original; bits of the zeros are 0."""
    pair = {"weight_orig": torch.tensor([1.0, -2.0, 3.0, float("inf")]), "bias": torch.ones(1), "weight_mask": torch.tensor([1.0, 0, 1, 0])}
    found = read_checkpoint(saved({f"module.conv.{name}": tensor for name, tensor in pair.items()})).tensors
    assert list(found) == ["conv.weight", "conv.bias"]
    assert found["conv.weight"].view(torch.int32).tolist() == torch.tensor([1.0, 0, 3, 0]).view(torch.int32).tolist()


def test_torch_prune_and_its_file_agree():
    """What a module pruned by torch computes with is what is read back."""
    layer = prune.random_unstructured(torch.nn.Linear(8, 8), "weight", amount=0.5)
    found = read_checkpoint(saved(layer.state_dict())).tensors
    assert sorted(found) == ["bias", "weight"]
    assert torch.equal(found["weight"], layer.weight.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_masks_of_torch_prune_are_kept(dtype):
    """The file's own masks, not its zeros: a kept weight that is 0 stays free; names are canonical; other tensors have none."""
    weight, mask = torch.tensor([0.0, -2.0, 3.0]), torch.tensor([1, 0, 1]).to(dtype)
    content = {"module.fc.weight_orig": weight, "module.fc.weight_mask": mask, "module.fc.bias": torch.zeros(2)}
    checkpoint = read_checkpoint(saved({"state_dict": content}))
    expected = MaskSet({"fc.weight": torch.tensor([True, False, True])})
    assert checkpoint.masks == expected
    assert checkpoint.with_tensors({"fc.weight": torch.ones(3)}).masks == expected


def test_a_file_without_pairs_says_nothing_of_masks():
    """Zeros alone are no mask."""
    assert len(read_checkpoint(saved({"w": torch.zeros(3), "v_mask": torch.ones(3)})).masks) == 0


def test_what_only_looks_like_a_pair_stays():
    """A mask of another shape, an original alone, a name that is there already: nothing is multiplied."""
    odd = {"a_orig": torch.ones(2), "a_mask": torch.ones(3), "b_orig": torch.ones(2), "c": torch.ones(2), "c_orig": torch.ones(2)}
    content = {**odd, "c_mask": torch.ones(2)}
    assert list(read_checkpoint(saved(content)).tensors) == list(content)


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("model.onnx", b"\x08\x07", "no sound ONNX model"),
        ("model.bin", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        ("model.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("model.gguf", b"GGUF\x03", "a GGUF file"),
        ("model.tflite", b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite model"),
        ("model.npy", b"\x93NUMPY\x01", "a NumPy array"),
        ("model.pt.gz", b"\x1f\x8b\x08", "a gzip archive"),
        ("model.pt", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(name, head, kind):
    """Formats of other programs are named, not called truncated."""
    Path(name).write_bytes(head + bytes(200))
    with pytest.raises(UnreadableFile, match=kind):
        read_checkpoint(Path(name))


@pytest.mark.parametrize(
    ("entry", "kind"),
    [("net/code/__torch__.py", "a TorchScript archive"), ("w.npy", "a NumPy archive"), ("a/archive_format", "cannot be located")],
)
def test_an_archive_of_another_kind_is_called_what_it_is(entry, kind):
    """A zip file is told by the names inside."""
    with zipfile.ZipFile("model.pt", "w") as archive:
        archive.writestr(entry, "x")
    with pytest.raises(UnreadableFile, match=kind):
        read_checkpoint(Path("model.pt"))


def test_a_folder_of_weights():
    """A Hugging Face folder is its one file of weights; an empty file in it is a sentence."""
    Path("hub").mkdir()
    Path("hub/config.json").write_text("{}")
    save_file(PLAIN, "hub/model.safetensors")
    assert set(read_checkpoint(Path("hub")).tensors) == set(PLAIN)
    Path("hub/model.safetensors").write_bytes(b"")
    with pytest.raises(UnreadableFile, match="damaged"):
        read_checkpoint(Path("hub"))


def test_a_list_under_state_dict():
    """Cascades save one state dict a stage: each stage's tensors begin with its number."""
    found = read_checkpoint(saved({"state_dict": [PLAIN, PLAIN], "epoch": 3})).tensors
    assert list(found) == [f"{stage}.{name}" for stage in (0, 1) for name in PLAIN]


@pytest.mark.parametrize(("entry", "wrapper"), [("my.model", ("my.model",)), ("my.model.net", ("my.model", "net")), ("a.b", ("a", "b"))])
def test_an_entry_whose_key_holds_a_dot(entry, wrapper):
    """It is named as it is written, with or without what is inside; keys without dots are taken first."""
    path = saved({"my.model": {"net": PLAIN}, "a.b": {"x": torch.ones(1)}, "a": {"b": PLAIN}})
    found = open_path(path, entry=entry).checkpoint
    assert found.wrapper == wrapper
    assert {name.removeprefix("net.") for name in found.tensors} == set(PLAIN)


def test_a_compressed_archive_says_so():
    """A torch file that was zipped anew with compression is told as such, with what helps."""
    saved(PLAIN)
    with zipfile.ZipFile("model.pt") as old, zipfile.ZipFile("small.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UnreadableFile) as caught:
        read_checkpoint(Path("small.pt"))
    said = str(caught.value)
    assert "small.pt are stored compressed" in said and "torch.save" in said and "state_dict" not in said
    assert same(read_checkpoint(saved(torch.load("small.pt", weights_only=True), "again.pt")))
