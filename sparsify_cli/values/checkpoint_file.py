"""Reading checkpoint files: torch pickles (weights only), safetensors, our packed safetensors.

Nothing in a file is ever run: torch files are read with `weights_only=True`, and a file that needs code to be read is
refused with the names of what it contains.
"""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify_cli.errors import MissingFile, SparsifyError, UnreadableFile, UnsafePickle
from sparsify_cli.values import tensor_file
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.file_hash import sha256_of
from sparsify_cli.values.file_kind import ADVICE, folder_kind, foreign_kind
from sparsify_cli.values.mask_set import MaskSet

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "ema", "module")
"""Keys under which training scripts keep their weights, in the order they are tried."""

TORCH_OWN = ("torch._utils.", "torch.serialization.", "collections.OrderedDict", "torch.FloatStorage", "torch.LongStorage")
"""What every checkpoint file needs in order to be read, and torch allows."""

PLAIN = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
"""Types of number that torch computes with in every way that is needed."""

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""Files that hold weights in the folders of other programs."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that data-parallel wrappers and torch.compile leave on every key."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The named tensors of a checkpoint file, wrapper and prefix removed, pairs of torch.nn.utils.prune multiplied and their masks kept.

    Raises:
        MissingFile: nothing is there, or a folder.
        UnreadableFile: truncated, corrupt, of an unknown kind, or without tensors.
        UnsafePickle: reading it would run code.
    """
    if not path.is_file():
        raise _no_file(path)
    content, wrapper = unwrapped(_reader(path)(path), path)
    _require_plain(content, path)
    tensors, prefix = without_prefix(without_pairs(content))
    masks = MaskSet({name.removeprefix(prefix): mask for name, mask in pair_masks(content).items()})
    return Checkpoint(tensors, Source(str(path), sha256_of(path)), wrapper, prefix, masks=masks)


def unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The mapping of named tensors inside a training script's wrapper, and the keys that led to it.

    Raises:
        UnreadableFile: there is none.
    """
    found = _descend(content, ())
    if found is None:
        raise UnreadableFile(f"{path} holds no named tensors.", _held(content), "Save the network's state_dict() and pass that file.")
    return found


def _held(content: Any) -> str:
    """What is there instead of named tensors, in a sentence."""
    if not isinstance(content, Mapping):
        return f"It holds: {type(content).__name__}."
    lists = {key: content[key] for key in WRAPPERS if isinstance(content.get(key), list | tuple)}
    inside = "".join(f" Its {key!r} is a list of {len(value)}, not names with tensors." for key, value in lists.items())
    return f"It holds: {', '.join(map(str, list(content)[:6])) or 'nothing'}.{inside}"


def _no_file(path: Path) -> MissingFile:
    """Why a path cannot be opened as a file, and what to name instead."""
    if not path.is_dir():
        return MissingFile(f"There is no checkpoint {path}.")
    kind, weights = folder_kind(path), sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
    if not kind:
        return MissingFile(f"{path} is not an artifact.", "It is a folder without a manifest.json.", "List yours with: ls runs")
    do = f"Name it: {path / weights[0]}" if len(weights) == 1 else "Join the parts into one file first."
    return MissingFile(f"{path} is {kind}.", "A single checkpoint file is needed for now.", do)


def _descend(content: Any, keys: tuple[str, ...]) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    if not isinstance(content, Mapping) or len(keys) > 3:
        return None
    for key in WRAPPERS:
        if key in content and (found := _descend(content[key], (*keys, key))):
            return found
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return (tensors, keys) if tensors else None


def without_prefix(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Tensors with a wrapper's common key prefix removed, and that prefix."""
    prefix = ""
    names = list(tensors)
    while found := next((p for p in PREFIXES if names and all(n.startswith(p) for n in names)), None):
        prefix += found
        names = [name.removeprefix(found) for name in names]
    return dict(zip(names, tensors.values(), strict=True)), prefix


def without_pairs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with each pair `X_orig`, `X_mask` of torch.nn.utils.prune as the one tensor X = orig * mask that the network computes with.

    A masked weight becomes +0.0, also where the original is negative or not finite.
    """
    pairs = _pairs(tensors)
    masks = {f"{name}_mask" for name in pairs}
    return {_paired(name, pairs): _product(name, tensor, tensors, pairs) for name, tensor in tensors.items() if name not in masks}


def pair_masks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of the pairs that `without_pairs` multiplies, under the names it gives them; bool, True = kept."""
    return {name: tensors[f"{name}_mask"] != 0 for name in sorted(_pairs(tensors))}


def _pairs(tensors: Mapping[str, Tensor]) -> set[str]:
    return {name.removesuffix("_orig") for name in tensors if name.endswith("_orig") and _is_pair(name.removesuffix("_orig"), tensors)}


def _is_pair(name: str, tensors: Mapping[str, Tensor]) -> bool:
    mask = tensors.get(f"{name}_mask")
    return name not in tensors and mask is not None and mask.shape == tensors[f"{name}_orig"].shape


def _paired(name: str, pairs: set[str]) -> str:
    bare = name.removesuffix("_orig")
    return bare if bare in pairs and name != bare else name


def _product(name: str, tensor: Tensor, tensors: Mapping[str, Tensor], pairs: set[str]) -> Tensor:
    if _paired(name, pairs) == name:
        return tensor
    mask = tensors[f"{_paired(name, pairs)}_mask"]
    return torch.where(mask == 0, torch.zeros((), dtype=tensor.dtype), tensor * mask.to(tensor.dtype))


def _require_plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    odd = {name: kind for name, tensor in tensors.items() if (kind := _oddity(tensor))}
    if odd:
        listed = ", ".join(f"{name} is {kind}" for name, kind in list(odd.items())[:3])
        raise UnreadableFile(
            f"{len(odd)} tensors of {path} are not plain numbers: {listed}.",
            "They cannot be ranked, counted or compared.",
            "Convert them in the program that made them, for instance with tensor.to_dense().float().",
        )


def _oddity(tensor: Tensor) -> str:
    """Why a tensor cannot be computed with like any other; nothing when it can."""
    if tensor.is_meta:
        return "empty (on the meta device)"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return "quantized" if tensor.is_quantized else "stored sparse"
    return "" if tensor.dtype in PLAIN else str(tensor.dtype).removeprefix("torch.")


def _reader(path: Path) -> Callable[[Path], Any]:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise UnreadableFile(f"{path} is empty.", "", "Copy or save the checkpoint again.")
    if kind := foreign_kind(path):
        raise UnreadableFile(f"{path} is {kind}.", "It is not a file of named tensors that can be read here.", ADVICE)
    return tensor_file.read if path.suffix == ".safetensors" or head[8:9] == b"{" else _read_torch


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles and storages; what matters is said below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from error
    except SparsifyError:
        raise
    except Exception as error:  # torch reports a damaged file as many kinds of exception
        raise UnreadableFile(
            f"{path} cannot be read as a checkpoint.",
            f"It is truncated, corrupt or of an unknown kind ({type(error).__name__}).",
            "Known kinds: torch .pt .pth .th .tar .bin .ckpt, and .safetensors.",
        ) from error


def _unsafe(path: Path, error: Exception) -> SparsifyError:
    names = _foreign_names(path)
    if not names and "Unsupported operand" in str(error):  # no opcode that torch ever writes
        return UnreadableFile(f"{path} cannot be read as a checkpoint.", "It is truncated, corrupt or not a checkpoint.")
    what = f": {', '.join(names[:4])}" if names else ""
    return UnsafePickle(
        f"{path} is a pickle that needs code to be read{what}.",
        "Running it could do anything on this machine, so it is refused.",
        "In the program that made it, save model.state_dict() and pass that file.",
    )


def _foreign_names(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # torch lists those of zip files only
        return sorted(name for name in _named_in_pickles(path) if not name.startswith(TORCH_OWN))


def _named_in_pickles(path: Path) -> set[str]:
    """Everything a file of pickles (torch before 1.6, or plain Python) would import; read as a list of words, nothing is run."""
    names: set[str] = set()
    words: list[str] = []
    with path.open("rb") as file, contextlib.suppress(Exception):  # past the last pickle lie plain numbers
        while True:
            for code, word, _ in pickletools.genops(file):
                words += [word] if isinstance(word, str) else []
                if code.name in ("GLOBAL", "INST"):
                    names.add(str(word).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    names.add(".".join(words[-2:]))
    return names
