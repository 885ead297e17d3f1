"""A Hugging Face folder, or any with one checkpoint: weights in one file or in shards, and config and tokenizer beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.artifact import is_artifact
from sparsify_cli.values.companions import beside, is_weights
from sparsify_cli.values.file_kind import require_fetched
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.safetensors_header import read_header
from sparsify_cli.values.shard_files import joined, write_anew
from sparsify_cli.values.shard_index import read_index
from sparsify_cli.values.torch_file import is_torch_file, torch_layout
from sparsify_cli.values.torch_shards import joined_torch, read_shards, write_shards

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
INDEX = ".index.json"
SAFETENSORS, BIN = ".safetensors", ".bin"
USUAL = {SAFETENSORS: "model", BIN: "pytorch_model"}
"""Kinds of file that have an index, the preferred first -> how the weights are called, when there are several to choose from."""

TORCH = (".bin", ".pt", ".pth", ".th", ".ckpt", ".tar")
"""How the names of torch checkpoints end."""

SHOWN = 6
"""Files that a message lists."""


@dataclass(frozen=True)
class Folder(Format):
    """Known by what it holds: safetensors or, without any, torch files; an index, a file of the usual name, or a single file."""

    def recognises(self, path: Path) -> bool:
        """True for a folder with such weights that no verb of this tool wrote; also when there is no telling which are meant."""
        try:
            return path.is_dir() and not is_artifact(path) and bool(_weights(path))
        except OSError:
            return False

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies, which files go along and which are left out because they hold the weights as they were.

        Raises:
            UnreadableFile: a file is damaged, missing or elsewhere, index and shards contradict each other, or there is no
                telling which of several files is meant.
            UnsafePickle: a torch file names code and `trust` is False.
        """
        try:
            return _layout(path, _only(path, _weights(path)), trust=trust)
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read.", f"The system says: {error.strerror or error}.") from error

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Write weights and index anew, each tensor into the file that it came from.

        Raises:
            Infeasible: a tensor of the original is of a type that torch has no word for, or the rest of a torch file needs code.
            BadData: a type or layout that safetensors has no word for.
            DiskFailure: the file system refused.
        """
        if layout.files[0].endswith(SAFETENSORS):
            write_anew(layout, tensors, folder, others=others, index=_index(layout, SAFETENSORS))
        else:
            write_shards(layout, table, tensors, folder, others=others, index=_index(layout, BIN))


def _layout(path: Path, weights: str, *, trust: bool) -> Layout:
    """The layout of a folder whose weights are read from one file or index."""
    require_fetched(path / weights)
    if weights.removesuffix(INDEX).endswith(SAFETENSORS):
        headers = read_index(path / weights).headers if weights.endswith(INDEX) else {weights: read_header(path / weights)}
        rest = beside(path, {*headers, weights})
        return joined("folder", path, headers, companions=_along(rest.carried, weights), others=rest.left)
    indexed = weights.endswith(INDEX)
    layouts = read_shards(path / weights, trust=trust) if indexed else {weights: torch_layout(path / weights, trust=trust)}
    rest = beside(path, {*layouts, weights})
    return joined_torch("folder", path, layouts, companions=_along(rest.carried, weights), others=rest.left)


def _along(carried: tuple[str, ...], weights: str) -> tuple[str, ...]:
    """What goes along, the index of the weights among it."""
    return tuple(sorted({*carried, *([weights] if weights.endswith(INDEX) else [])}))


def _index(layout: Layout, kind: str) -> str:
    return next((name for name in layout.companions if name.endswith(kind + INDEX) and "/" not in name), "")


def _weights(folder: Path) -> list[str]:
    """What the weights of a folder may be read from, by name: one index or file, several to choose from, or none."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    for kind, usual in USUAL.items():
        ours = [name for name in names if name.endswith((kind + INDEX, kind)) and (kind == SAFETENSORS or is_weights(name))]
        named = [name for name in (usual + kind + INDEX, usual + kind) if name in ours]
        alone = [found[0] for ending in (kind + INDEX, kind) if len(found := [name for name in ours if name.endswith(ending)]) == 1]
        if named or (alone and (kind == SAFETENSORS or alone[0].endswith(INDEX))):
            return [*named, *alone][:1]
        if ours and kind == SAFETENSORS:
            return ours
    return _torch_files(folder, names)


def _torch_files(folder: Path, names: list[str]) -> list[str]:
    """Torch checkpoints of a folder; beside a config also one file that only has such a name, so that it can be said what it is."""
    called = [name for name in names if name.lower().endswith(TORCH) and (is_weights(name) or name.endswith(".tar"))]
    found = list(islice((name for name in called if is_torch_file(folder / name)), SHOWN + 1))
    return found or (called[:1] if CONFIG in names else [])


def _only(folder: Path, weights: list[str]) -> str:
    """The one that weights are read from.

    Raises:
        UnreadableFile: there are several, or none.
    """
    if len(weights) == 1:
        return weights[0]
    if not weights:
        raise UnreadableFile(
            f"{folder} is no folder of weights.", "It holds neither safetensors files nor a torch checkpoint.", "Name a file."
        )
    listed = ", ".join(weights[:SHOWN]) + (" and more" if len(weights) > SHOWN else "")
    raise UnreadableFile(
        f"{folder} holds several files of weights and no index.", f"They are {listed}.", f"Name one: {folder / weights[0]}."
    )
