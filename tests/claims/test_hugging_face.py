"""Claim: a folder of Hugging Face transformers goes in, and one comes out that `from_pretrained` loads, nothing missing or unexpected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.cli.app import main

transformers = pytest.importorskip("transformers", reason="these tests load the results with transformers, which is not installed")

SMALL = "16KB"
"""Size of a shard, so that there are several."""

INDEX = "pytorch_model.bin.index.json"
OUT = Path("pruned/model")


def bert() -> nn.Module:
    """Two layers of BERT, 16 wide."""
    sizes = dict.fromkeys(("intermediate_size", "max_position_embeddings"), 32)
    config = transformers.BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **sizes)
    return transformers.BertModel(config)


def gpt2() -> nn.Module:
    """Two layers of GPT-2, 16 wide, output tied to the embedding."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=99, n_positions=32, n_embd=16, n_layer=2, n_head=2))


def llama() -> nn.Module:
    """Two layers of Llama, 16 wide, output tied to the embedding."""
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=99, max_position_embeddings=32, tie_word_embeddings=True, **sizes)
    return transformers.LlamaForCausalLM(config)


NETWORKS = {"bert": bert, "gpt2": gpt2, "llama": llama}
LOADERS = {"bert": "AutoModel", "gpt2": "AutoModelForCausalLM", "llama": "AutoModelForCausalLM"}


def made(name: str) -> nn.Module:
    """One of the networks with weights that are always the same, none of them zero."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for tensor in network.parameters():
        tensor.data.normal_(0, 0.1)
    return network


def one_file(network: Any, folder: Path) -> None:
    """As `save_pretrained` writes it: one safetensors file."""
    network.save_pretrained(folder)


def shards(network: Any, folder: Path) -> None:
    """As `save_pretrained` writes larger ones: shards and an index."""
    network.save_pretrained(folder, max_shard_size=SMALL)


def old_file(network: Any, folder: Path) -> None:
    """As older versions wrote it: one torch file, in which tied weights share their memory."""
    network.config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")


def older_file(network: Any, folder: Path) -> None:
    """As still older versions of torch wrote it."""
    network.config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def old_shards(network: Any, folder: Path) -> None:
    """As older versions wrote larger ones: torch shards and an index."""
    network.config.save_pretrained(folder)
    state = network.state_dict()
    names = sorted(state, key=lambda name: state[name].data_ptr())  # tied weights into the same shard
    middle = len(names) // 2 + 1
    middle += state[names[middle - 1]].data_ptr() == state[names[middle]].data_ptr()
    weight_map = {}
    for number, half in enumerate((names[:middle], names[middle:]), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


WAYS = {one.__name__: one for one in (one_file, shards, old_file, older_file, old_shards)}


def loaded(name: str, folder: Path) -> nn.Module:
    """The network in a folder, as users load it; every key is there and no other, and all shapes fit."""
    network, said = getattr(transformers, LOADERS[name]).from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not any(said.values()), said
    return network.eval()


def prunable(network: nn.Module) -> dict[str, Tensor]:
    """Weights of the linear layers, without the output layer that is an embedding."""
    found = {n: m for n, m in network.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and n != "lm_head"}
    return {f"{name}.weight": module.weight.data for name, module in found.items()}


def pruned(folder: Path, *flags: str) -> Path:
    """The folder after `prune`."""
    assert main(["prune", str(folder), "--out", "pruned", *flags]) == 0
    return OUT


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_transformers_load_the_result(tmp_path: Path, name: str, way: str) -> None:
    """Same files, config byte for byte, 80 % of the linear weights zero and the rest as they were, tied weights tied."""
    folder = tmp_path / "given"
    folder.mkdir()
    WAYS[way](made(name), folder)
    before, after = loaded(name, folder), loaded(name, pruned(folder, "--sparsity", "0.8"))
    assert sorted(path.name for path in OUT.iterdir()) == sorted(path.name for path in folder.iterdir())
    assert (OUT / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    total = sum(weight.numel() for weight in prunable(before).values())
    zeros = sum(int((weight == 0).sum()) for weight in prunable(after).values())
    assert zeros == round(total * 0.8)
    now = after.state_dict()
    for key, tensor in before.state_dict().items():
        assert torch.equal(now[key], torch.where(now[key] == 0, 0, tensor) if key in prunable(before) else tensor), key
    assert name == "bert" or after.lm_head.weight is after.get_input_embeddings().weight
    assert way.endswith("file") or len(list(OUT.glob("*-of-0000*"))) > 1


def runs_along(weight: Tensor, axis: int) -> bool:
    """True when every four weights in a row along an axis hold two zeros."""
    groups = weight.movedim(axis, -1).reshape(-1, 4)
    return bool(((groups == 0).sum(1) == 2).all())


@pytest.mark.parametrize("way", ["one_file", "old_shards"])
def test_two_of_four_along_inputs(tmp_path: Path, way: str) -> None:
    """GPT-2 stores [inputs, outputs], Llama [outputs, inputs]: 2:4 runs along inputs in both."""
    for name, axis in (("gpt2", 0), ("llama", 1)):
        folder = tmp_path / name
        folder.mkdir()
        WAYS[way](made(name), folder)
        weights = prunable(loaded(name, pruned(folder, "--pattern", "2:4", "--sparsity", "0.5")))
        assert len(weights) == (8 if name == "gpt2" else 14)
        assert all(runs_along(weight, axis) for weight in weights.values())
        assert not any(runs_along(weight, 1 - axis) for weight in weights.values())
        shutil.rmtree("pruned")


def test_what_lies_beside_goes_along(tmp_path: Path) -> None:
    """Tokenizer and a folder within are copied byte for byte; dense copies are not."""
    folder = tmp_path / "given"
    one_file(made("bert"), folder)
    (folder / "1_Pooling").mkdir()
    (folder / "onnx").mkdir()
    carried = {"1_Pooling/config.json": b"{}", "tokenizer.json": b'{"a": "\xc3\xa9"}', "modules.json": b'[{"path": "1_Pooling"}]'}
    for name, content in {**carried, "onnx/model.onnx": b"x", "pytorch_model.bin": b"x"}.items():
        (folder / name).write_bytes(content)
    pruned(folder, "--sparsity", "0.5")
    assert {name: (OUT / name).read_bytes() for name in carried} == carried
    assert not (OUT / "onnx").exists() and not (OUT / "pytorch_model.bin").exists()


def test_other_types_of_number(tmp_path: Path) -> None:
    """A network in bfloat16 stays in bfloat16, in torch shards too."""
    for way in ("one_file", "old_shards"):
        folder = tmp_path / way
        folder.mkdir()
        WAYS[way](made("llama").to(torch.bfloat16), folder)
        network = loaded("llama", pruned(folder, "--sparsity", "0.8"))
        assert {tensor.dtype for tensor in network.parameters()} == {torch.bfloat16}
        shutil.rmtree("pruned")


def test_an_index_is_named_instead_of_its_folder(tmp_path: Path) -> None:
    """Shards and index come out beside the masks; put beside the config, they load."""
    for way, index in (("old_shards", INDEX), ("shards", "model.safetensors.index.json")):
        folder = tmp_path / way
        folder.mkdir()
        WAYS[way](made("gpt2"), folder)
        assert main(["prune", str(folder / index), "--sparsity", "0.8", "--out", "pruned"]) == 0
        assert (Path("pruned") / index).read_bytes() == (folder / index).read_bytes()
        shutil.copy(folder / "config.json", "pruned")
        after = prunable(loaded("gpt2", Path("pruned")))
        assert sum(int((weight == 0).sum()) for weight in after.values()) == round(sum(weight.numel() for weight in after.values()) * 0.8)
        shutil.rmtree("pruned")
