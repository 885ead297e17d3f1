"""The format of Hugging Face folders: what is recognised, what goes along, what is left out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.formats.folder import Folder
from sparsify_cli.values import companions
from sparsify_cli.values.companions import COPY, FOLDER_LINK, LINK, MORE, OUTPUT, TOO_MUCH
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
    """Other kinds of the same weights, and links that lead out, stay behind and are named; hidden files are not."""
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
    found = FORMAT.layout(folder)
    assert found.others == {**dict.fromkeys(copies, COPY), "notes.txt": LINK}
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
    """A folder that a verb wrote, one without weights, an empty one, and a file are none."""
    assert not FORMAT.recognises(folder / SINGLE)
    assert FORMAT.recognises(folder)
    (folder / "manifest.json").write_text('{"start_url": "/"}')  # of somebody else's
    assert FORMAT.recognises(folder)
    (folder / "manifest.json").write_text('{"schema": "sparsify/artifact/1", "verb": "prune"}')
    assert not FORMAT.recognises(folder)
    (folder / "empty").mkdir()
    assert not FORMAT.recognises(folder / "empty")
    with pytest.raises(UnreadableFile, match="holds neither safetensors files nor a torch checkpoint"):
        FORMAT.layout(folder / "empty")


def test_no_telling_which(folder):
    """Two files without an index: both are listed, and one is to be named; a torch file beside them settles nothing."""
    (folder / "a.safetensors").write_bytes((folder / SINGLE).read_bytes())
    (folder / SINGLE).rename(folder / "b.safetensors")
    torch.save({"w": torch.ones(2)}, folder / "pytorch_model.bin")
    assert FORMAT.recognises(folder)
    with pytest.raises(UnreadableFile, match=r"They are a\.safetensors, b\.safetensors\. Name one: .*a\.safetensors"):
        FORMAT.layout(folder)


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


def nested(folder: Path, *names: str) -> None:
    """Files of three letters, in folders within."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("abc")


def test_folders_within(folder):
    """Their files go along, copies of the weights do not, layers of sentence-transformers do; hidden ones are no part of it."""
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]')
    nested(folder, "1_Pooling/config.json", "2_Dense/model.safetensors", "onnx/model.onnx", "onnx/config.json", "a/b/c.txt")
    nested(folder, "openvino/model.bin", ".cache/x.txt", "a/.hidden/y.txt")
    found = FORMAT.layout(folder)
    carried = ["1_Pooling/config.json", "2_Dense/model.safetensors", "a/b/c.txt", "config.json", "modules.json", "onnx/config.json"]
    assert (found.companions, found.files) == (tuple(carried), (SINGLE,))
    assert found.others == {"onnx/model.onnx": COPY, "openvino/model.bin": COPY}


def test_links_within(folder, tmp_path):
    """A link to a file of the folder goes along; one that leads out and one to a folder stay behind."""
    nested(folder, "a/b.txt")
    nested(tmp_path, "secret/key.txt")
    (folder / "a/in").symlink_to("../config.json")
    (folder / "a/out").symlink_to("../../secret/key.txt")
    (folder / "loop").symlink_to(".")
    (folder / "away").symlink_to("../secret")
    found = FORMAT.layout(folder)
    assert found.companions == ("a/b.txt", "a/in", "config.json")
    assert found.others == {"a/out": LINK, "loop": FOLDER_LINK, "away": LINK}


def test_what_goes_along_is_bounded(folder, monkeypatch):
    """The smallest files go along, as many as there is room for, in number and in bytes; a huge folder is not walked to its end."""
    nested(folder, "a/1", "a/2", "a/3")
    (folder / "big.txt").write_text("x" * 1000)
    monkeypatch.setattr(companions, "SIZE", 9 + len('{"model_type": "gpt2"}'))
    found = FORMAT.layout(folder)
    assert (found.companions, found.others) == (("a/1", "a/2", "a/3", "config.json"), {"big.txt": TOO_MUCH})
    monkeypatch.setattr(companions, "COUNT", 2)
    assert FORMAT.layout(folder).companions == ("a/1", "a/2")
    monkeypatch.setattr(companions, "SEEN", 3)
    found = FORMAT.layout(folder)
    assert (found.companions, found.others) == (("config.json",), {MORE: "left out: more than 3 entries", "big.txt": TOO_MUCH})


BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
HALVES = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def halves(tmp_path, request) -> Path:
    """A folder of two torch files and their index, saved in either of torch's ways."""
    made = tmp_path / "halves"
    made.mkdir()
    for number, (name, file) in enumerate(HALVES.items(), 1):
        torch.save({name: torch.full((2, 3), number)}, made / file, _use_new_zipfile_serialization=request.param)
    (made / BIN_INDEX).write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": HALVES}))
    (made / "config.json").write_text("{}")
    return made


def test_torch_shards_of_a_folder(halves):
    """One table over both files, whose numbers lie where it says; checksums of both; the index goes along."""
    found = FORMAT.layout(halves)
    assert (found.kind, found.files, found.companions) == ("folder", tuple(HALVES.values()), ("config.json", BIN_INDEX))
    places = found.tables[()]
    assert {name: place.file for name, place in places.items()} == HALVES
    for number, place in enumerate(places.values(), 1):
        numbers = torch.frombuffer(bytearray((halves / place.file).read_bytes()[place.offset : place.end]), dtype=torch.int64)
        assert numbers.tolist() == [number] * 6
    assert {check.file for check in found.checks} in (set(HALVES.values()), set())
    assert bool(found.checks) == (halves / HALVES["a"]).read_bytes().startswith(b"PK")


def test_torch_shards_are_written_anew(halves, tmp_path):
    """Each tensor goes where it was, new ones beside the like of them; the index says so, and the way of saving stays."""
    (tmp_path / "out").mkdir()
    tensors = {"a": torch.ones(1), "b": torch.ones(2), "b.scale": torch.ones(3)}
    FORMAT.rebuild(FORMAT.layout(halves), (), tensors, tmp_path / "out", others=True)
    second = torch.load(tmp_path / "out" / HALVES["b"], weights_only=True)
    assert ({name: len(tensor) for name, tensor in second.items()}, type(second)) == ({"b": 2, "b.scale": 3}, dict)
    index = json.loads((tmp_path / "out" / BIN_INDEX).read_text())
    assert index == {"metadata": {"total_size": 24}, "weight_map": {**HALVES, "b.scale": HALVES["b"]}}
    heads = [(place / HALVES["a"]).read_bytes()[:2] for place in (halves, tmp_path / "out")]
    assert heads[0] == heads[1]
    assert FORMAT.layout(tmp_path / "out").tables[()].keys() == tensors.keys()


def test_torch_index_and_shards_contradict_each_other(halves):
    """A tensor in the wrong shard, a missing shard, a path, and tensors below the top are refused by name."""
    swapped = {"a": HALVES["b"], "b": HALVES["a"]}
    for weight_map, said in [
        (swapped, "holds 'a', which that file does not"),
        ({**HALVES, "c": "pytorch_model-3.bin"}, "names 'pytorch_model-3.bin', not there"),
        ({**HALVES, "c": "../x.bin"}, "a shard is a plain file name"),
        ({"a": HALVES["a"], "c": HALVES["a"]}, "holds 'c', which that file does not"),
    ]:
        (halves / BIN_INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UnreadableFile, match=said):
            FORMAT.layout(halves)
    (halves / BIN_INDEX).write_text(json.dumps({"weight_map": HALVES}))
    torch.save({"a": torch.ones(1), "b": torch.ones(1)}, halves / HALVES["a"])
    with pytest.raises(UnreadableFile, match=f"holds 'b'; the index puts it into {HALVES['b']}"):
        FORMAT.layout(halves)
    torch.save({"state_dict": {"a": torch.ones(1)}}, halves / HALVES["a"])
    with pytest.raises(UnreadableFile, match="holds tensors under 'state_dict'"):
        FORMAT.layout(halves)


def test_safetensors_before_torch(folder):
    """With both kinds there, the torch files stay behind as dense copies, their index too."""
    torch.save({"a": torch.ones(1)}, folder / BIN)
    (folder / BIN_INDEX).write_text(json.dumps({"weight_map": {"a": BIN}}))
    found = FORMAT.layout(folder)
    assert (found.files, found.others) == ((SINGLE,), {BIN: COPY, BIN_INDEX: COPY})


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt", "best.pth.tar", "net.tar"])
@pytest.mark.parametrize("config", [True, False])
def test_one_torch_file(tmp_path, name, config):
    """A folder with one torch checkpoint of any name is that checkpoint, wrapper and rest included, config or not."""
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / name)
    torch.save({"lr": 0.1}, tmp_path / "optimizer.pt")
    if config:
        (tmp_path / "config.json").write_text("{}")
    found = FORMAT.layout(tmp_path)
    assert FORMAT.recognises(tmp_path)
    assert (found.files, [*found.tables], dict(found.others)) == ((name,), [("state_dict",)], {"epoch": "int 3"})
    assert found.companions == (*(["config.json"] if config else []), "optimizer.pt")
    (tmp_path / "out").mkdir()
    FORMAT.rebuild(found, ("state_dict",), {"v": torch.ones(1)}, tmp_path / "out", others=True)
    content = torch.load(tmp_path / "out" / name, weights_only=True)
    assert (content["epoch"], content["state_dict"]) == (3, {"v": torch.ones(1)})


def test_several_torch_files(tmp_path):
    """They are listed; the usual name settles it, and the others are copies."""
    for name in ("a.pt", "b.ckpt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    assert FORMAT.recognises(tmp_path)
    with pytest.raises(UnreadableFile, match=r"several files of weights and no index\. They are a\.pt, b\.ckpt\. Name one: "):
        FORMAT.layout(tmp_path)
    torch.save({"w": torch.ones(2)}, tmp_path / BIN)
    found = FORMAT.layout(tmp_path)
    assert (found.files, found.others) == ((BIN,), {"a.pt": COPY, "b.ckpt": COPY})


@pytest.mark.parametrize("name", [BIN, SINGLE, HALVES["b"], BIN_INDEX])
def test_a_pointer_instead_of_weights(halves, name):
    """A file that Git LFS never fetched is said to be one, also when it is a shard or an index."""
    if name == BIN:
        (halves / BIN_INDEX).unlink()
    (halves / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert FORMAT.recognises(halves)
    with pytest.raises(UnreadableFile, match="is a Git LFS pointer; the file itself was never fetched"):
        FORMAT.layout(halves)


def test_transposed_weights_in_torch_files(tmp_path):
    """The config speaks of torch files too."""
    torch.save({"h.0.mlp.c_fc.weight": torch.ones(2, 6)}, tmp_path / BIN)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert FORMAT.layout(tmp_path).hints == {"h.0.mlp.c_fc.weight": Hint("Conv1D", transposed=True)}


def test_results_within_the_folder_stay_behind(folder):
    """An artifact, finished or being written, is not carried along with the network it was made from; other folders are."""
    texts = {
        "runs/001/manifest.json": '{"schema": "sparsify/artifact/1"}',
        "runs/001/report.html": "x",
        "out/masks.partial": "x",
        "out/notes.txt": "x",
        "app/manifest.json": '{"name": "app"}',
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = FORMAT.layout(folder)
    assert found.companions == ("app/manifest.json", "config.json")
    assert found.others == {"runs/001": OUTPUT, "out": OUTPUT}
