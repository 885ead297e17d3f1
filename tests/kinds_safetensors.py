"""Small real files of safetensors: alone, in shards, in folders of transformers, packed; see `kinds.py` for the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.kinds import WEIGHTS, Kind, Table, named, state


def plain_safetensors(dtype: torch.dtype = torch.float32) -> Kind:
    """One safetensors file."""

    def make(folder: Path) -> Path:
        safetensors.torch.save_file(state(dtype=dtype), folder / "model.safetensors", metadata={"format": "pt", "note": "ours"})
        return folder / "model.safetensors"

    return Kind(make, safetensors.torch.load_file, named())


def shards(folder: Path) -> Path:
    """Two shards and their index, beside a config and a tokenizer; one shard's header ends with spaces."""
    table, names = state(), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    parts = {names[0]: {n: t for n, t in table.items() if n < "c"}, names[1]: {n: t for n, t in table.items() if n >= "c"}}
    for name, part in parts.items():
        safetensors.torch.save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: name for name, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text('{"architectures": ["Net"], "torch_dtype": "float32"}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    return folder


def load_shards(path: Path) -> Table:
    """As accelerate does it: the index says which file holds what."""
    folder = path if path.is_dir() else path.parent
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = {name: safetensors.torch.load_file(folder / name) for name in set(index["weight_map"].values())}
    return {name: files[file][name] for name, file in index["weight_map"].items()}


def hugging_face(config: str, weights: Callable[[str], bool], **options: Any) -> Kind:
    """A tiny language model saved by transformers, loaded by transformers."""

    def make(folder: Path) -> Path:
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**options))
        model.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
        return folder

    def load(path: Path) -> Table:
        model = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
        return dict(model.state_dict())

    return Kind(make, load, lambda table: {name: name for name in table if weights(name)})


def bitmask(folder: Path) -> Path:
    """A folder of compressed-tensors' sparse-bitmask: values, one bit a weight (lowest first), sizes, where rows begin."""
    table, torch_state = {}, state()
    for name, tensor in torch_state.items():
        if name not in WEIGHTS:
            table[name] = tensor
            continue
        rows = torch.where(torch.rand(tensor.shape) < 0.5, tensor, 0).flatten(1)
        kept = rows != 0
        table |= {f"{name}.compressed": rows[kept], f"{name}.shape": torch.tensor(rows.shape)}
        table[f"{name}.bitmask"] = torch.from_numpy(np.packbits(kept.numpy(), axis=1, bitorder="little"))
        table[f"{name}.row_offsets"] = kept.sum(1).cumsum(0) - kept.sum(1)
    safetensors.torch.save_file(table, folder / "model.safetensors")
    config = {"compression_config": {"sparsity_config": {"format": "sparse-bitmask"}}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def unpacked(table: Table) -> Table:
    """The dense tensors of such a folder, written out position by position."""
    plain = {name: tensor for name, tensor in table.items() if not name.endswith((".compressed", ".bitmask", ".shape", ".row_offsets"))}
    for name in (name.removesuffix(".compressed") for name in table if name.endswith(".compressed")):
        values, (rows, columns) = iter(table[f"{name}.compressed"].tolist()), table[f"{name}.shape"].tolist()
        plain[name] = torch.tensor(
            [[next(values) if table[f"{name}.bitmask"][r, c // 8] >> (c % 8) & 1 else 0.0 for c in range(columns)] for r in range(rows)]
        )
    return plain


def load_folder(path: Path) -> Table:
    """The one weights file of a folder."""
    return safetensors.torch.load_file(path / "model.safetensors")


SMALL = {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 1}
LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, **SMALL}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, **SMALL}

SAFETENSORS = {
    "safetensors": plain_safetensors(),
    **{f"safetensors {str(d)[6:]}": plain_safetensors(d) for d in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn)},
    "shards": Kind(shards, load_shards, named()),
    "index": Kind(lambda folder: shards(folder) / "model.safetensors.index.json", load_shards, named()),
    "Llama": hugging_face("LlamaConfig", lambda name: name.endswith(("_proj.weight", "lm_head.weight")), **LLAMA),
    "GPT-2": hugging_face("GPT2Config", lambda name: ".c_" in name and name.endswith(".weight"), **GPT2),
    "sparse-bitmask": Kind(bitmask, load_folder, named(), folded=unpacked),
}
