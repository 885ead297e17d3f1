"""A Hugging Face folder: weights in one safetensors file or in shards, and config and tokenizer beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.safetensors_header import Header, read_header
from sparsify_cli.values.shard_files import joined, write_anew
from sparsify_cli.values.shard_index import leaves, read_index

if TYPE_CHECKING:
    from torch import Tensor

OURS = "manifest.json"
INDEX, SINGLE = ".safetensors.index.json", ".safetensors"
USUAL = "model"
"""How the weights are called, when there are several to choose from."""

KINDS = "safetensors|bin|pt|pth|th|ckpt|pkl|h5|hdf5|keras|msgpack|onnx|onnx_data|gguf|ggml|tflite|ot|pt2|pte|ts|jit|npz|mlmodel|nemo"
WEIGHTS = re.compile(rf".*\.({KINDS})(\.index\.json)?|.*\.(ckpt|onnx)\..*|.*\.(index|data-\d+-of-\d+)", re.IGNORECASE)
"""Files that hold weights, whatever the kind, and their indices."""

STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|tokenizer|vocab|merges|spiece)[\w-]*\.\w+")
"""Files of a training run or a tokenizer that are called like weights and are none."""

COPY, LINK, NESTED = "left out: dense copy of the weights", "left out: a link that leads out of the folder", "left out: a folder"


@dataclass(frozen=True)
class Folder(Format):
    """Known by what it holds: `model.safetensors.index.json`, `model.safetensors`, another single index, or a single such file."""

    def recognises(self, path: Path) -> bool:
        """True for a folder with such weights that no verb of this tool wrote."""
        try:
            return path.is_dir() and not (path / OURS).is_file() and bool(_weights(path))
        except OSError:
            return False

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies, which files go along and which are left out because they hold the weights as they were.

        Raises:
            UnreadableFile: a file is damaged, missing or elsewhere, or index and shards contradict each other.
        """
        try:
            return self._layout(path, _weights(path))
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read.", f"The system says: {error.strerror or error}.") from error

    def _layout(self, path: Path, weights: str) -> Layout:
        if not weights:
            raise UnreadableFile(f"{path} is no folder of weights.", "It holds no safetensors file, or several and no index.", "Name one.")
        headers = _headers(path, weights)
        rest = {name: why for name, why in _rest(path) if name not in headers and name != weights}
        indices = (weights,) if weights.endswith(INDEX) else ()
        companions = tuple(sorted([*indices, *(name for name, why in rest.items() if not why)]))
        return joined("folder", path, headers, companions=companions, others={name: why for name, why in rest.items() if why})

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Write weights and index anew, each tensor into the file that it came from.

        Raises:
            Infeasible: a tensor of the original is of a type that torch has no word for.
            BadData: a type or layout that safetensors has no word for.
            DiskFailure: the file system refused.
        """
        index = next((name for name in layout.companions if name.endswith(INDEX)), "")
        write_anew(layout, tensors, folder, others=others, index=index)


def _weights(folder: Path) -> str:
    """The index or file that the weights of a folder are read from; nothing when there is none or no telling which."""
    names = [name for name in _files(folder) if name.endswith((INDEX, SINGLE))]
    usual = [name for name in (USUAL + INDEX, USUAL + SINGLE) if name in names]
    alone = [found[0] for ending in (INDEX, SINGLE) if len(found := [name for name in names if name.endswith(ending)]) == 1]
    return next(iter([*usual, *alone]), "")


def _headers(folder: Path, weights: str) -> Mapping[str, Header]:
    return read_index(folder / weights).headers if weights.endswith(INDEX) else {weights: read_header(folder / weights)}


def _rest(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything that is not hidden -> why it is left out; nothing for what goes along."""
    yield from ((entry.name, NESTED) for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith("."))
    for name in _files(folder):
        copy = WEIGHTS.fullmatch(name) and not STATE.fullmatch(name)
        yield name, COPY if copy else LINK if leaves(folder, name) else ""


def _files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
