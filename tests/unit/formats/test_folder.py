"""The format of Hugging Face folders: what is recognised, what goes along, what is left out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.formats.folder import COPY, LINK, NESTED, Folder
from sparsify_cli.values.layout import Hint

FORMAT = Folder()
SHARED = Path(__file__).parents[3] / "../shared/data"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small GPT-2 in one file, with its config."""
    made = tmp_path / "gpt"
    made.mkdir()
    save_file({"h.0.attn.c_attn.weight": torch.ones(2, 6), "wte.weight": torch.ones(5, 2)}, made / SINGLE, metadata={"format": "pt"})
    (made / "config.json").write_text('{"model_type": "gpt2"}')
    return made


def index_of(folder: Path, name: str = INDEX) -> None:
    """An index that puts all of model.safetensors into that file."""
    (folder / name).write_text(json.dumps({"weight_map": dict.fromkeys(load_file(folder / SINGLE), SINGLE)}))


@pytest.mark.parametrize(
    ("name", "files"),
    [("loader_zoo/derived_resnet20_sharded", 3), ("ckpt_lm/stories260K_hf_bf16_sharded", 3), ("ckpt_lm/stories260K_hf_fp32", 1)],
)
def test_real_folders_hold_what_the_library_reads(name, files):
    """The bytes at every place are those of the tensors in all files together; everything else goes along."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not on this machine")
    assert FORMAT.recognises(folder)
    found = FORMAT.layout(folder)
    tensors = {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
    contents = {file: (folder / file).read_bytes() for file in found.files}
    assert found.tables[()].keys() == tensors.keys()
    for key, place in found.tables[()].items():
        assert contents[place.file][place.offset : place.end] == tensors[key].reshape(-1).view(torch.uint8).numpy().tobytes()
    assert (len(found.files), sorted([*found.files, *found.companions])) == (files, sorted(path.name for path in folder.iterdir()))


def test_the_layout_of_a_folder(folder):
    """Places, companions, and what the config says about transposed weights."""
    found = FORMAT.layout(folder)
    assert (found.kind, found.root, found.files, found.companions) == ("folder", folder, (SINGLE,), ("config.json",))
    assert found.hints == {"h.0.attn.c_attn.weight": Hint("Conv1D", transposed=True)}
    assert found.metadata == {"format": "pt"}


def test_dense_copies_are_left_out(folder, tmp_path):
    """Other kinds of the same weights, links that lead out and folders stay behind and are named; hidden files are not."""
    copies = ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.fp16.safetensors", "tf_model.h5", "flax_model.msgpack"]
    copies += [
        "model.onnx",
        "model.onnx_data",
        "model.Q4.gguf",
        "rust_model.ot",
        "model.ckpt.data-00000-of-00001",
        "x.safetensors.index.json",
    ]
    carried = ["tokenizer.json", "tokenizer.model", "vocab.txt", "README.md", "training_args.bin", "rng_state_0.pth", "custom_code.py"]
    for name in [*copies, *carried, ".gitattributes", ".msc"]:
        (folder / name).write_text("{}")
    (tmp_path / "elsewhere").write_text("secret")
    (folder / "notes.txt").symlink_to("../elsewhere")
    (folder / "onnx").mkdir()
    found = FORMAT.layout(folder)
    assert found.others == {**dict.fromkeys(copies, COPY), "notes.txt": LINK, "onnx": NESTED}
    assert found.companions == tuple(sorted([*carried, "config.json"]))


def test_which_weights_are_meant(folder):
    """The usual index before the usual file, before another single index, before another single file."""
    weights = dict.fromkeys(load_file(folder / SINGLE), "other.safetensors")
    (folder / "other.safetensors").write_bytes((folder / SINGLE).read_bytes())
    (folder / "x.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert FORMAT.layout(folder).files == (SINGLE,)
    index_of(folder)
    found = FORMAT.layout(folder)
    assert (found.files, found.companions) == ((SINGLE,), ("config.json", INDEX))
    assert found.others == {"other.safetensors": COPY, "x.safetensors.index.json": COPY}
    (folder / INDEX).unlink()
    (folder / SINGLE).unlink()
    found = FORMAT.layout(folder)
    assert (found.files, found.companions) == (("other.safetensors",), ("config.json", "x.safetensors.index.json"))


def test_what_is_no_such_folder(folder):
    """A folder that a verb wrote, one with two files and no telling which, an empty one, and a file are none."""
    assert not FORMAT.recognises(folder / SINGLE)
    (folder / "a.safetensors").write_bytes((folder / SINGLE).read_bytes())
    (folder / SINGLE).rename(folder / "b.safetensors")
    assert not FORMAT.recognises(folder)
    with pytest.raises(UnreadableFile, match="several and no index"):
        FORMAT.layout(folder)
    (folder / "a.safetensors").unlink()
    assert FORMAT.recognises(folder)
    (folder / "manifest.json").write_text("{}")
    assert not FORMAT.recognises(folder)
    (folder / "empty").mkdir()
    assert not FORMAT.recognises(folder / "empty")


@pytest.mark.parametrize("indexed", [False, True])
def test_a_folder_is_written_anew(folder, tmp_path, indexed):
    """Same file names, an index where there was one, companions left to whoever copies them."""
    if indexed:
        index_of(folder)
    (tmp_path / "out").mkdir()
    tensors = {"h.0.attn.c_attn.weight": torch.zeros(2, 6), "wte.weight": torch.ones(4, 2)}
    FORMAT.rebuild(FORMAT.layout(folder), (), tensors, tmp_path / "out", others=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ([SINGLE, INDEX] if indexed else [SINGLE])
    assert {name: place.shape for name, place in FORMAT.layout(tmp_path / "out").tables[()].items()} == {
        "h.0.attn.c_attn.weight": (2, 6),
        "wte.weight": (4, 2),
    }


def test_a_folder_in_the_cache_of_the_hub(folder, tmp_path):
    """Snapshots of the hub's cache are links to blobs; weights, index and config are read through them."""
    index_of(folder)
    home, blobs = tmp_path / "models--x/snapshots/abc", tmp_path / "models--x/blobs"
    home.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        path.rename(blobs / f"hash-{path.name}")
        (home / path.name).symlink_to(f"../../blobs/hash-{path.name}")
    found = FORMAT.layout(home)
    assert (found.files, found.companions, found.others) == ((SINGLE,), ("config.json", INDEX), {})


def test_a_broken_config_is_only_a_companion(folder):
    """A config that is no JSON goes along and says nothing."""
    (folder / "config.json").write_text("{{{")
    found = FORMAT.layout(folder)
    assert (found.companions, found.hints) == (("config.json",), {})
