"""Several safetensors or torch files and the index that says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.shard_files import joined, write_anew
from sparsify_cli.values.shard_index import read_index
from sparsify_cli.values.torch_shards import INDEX, joined_torch, read_shards, write_shards

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sharded(Format):
    """Known by the name of the index, `*.safetensors.index.json` or `*.bin.index.json`; nothing else of its folder belongs to it."""

    def recognises(self, path: Path) -> bool:
        """True for a file of that name."""
        return path.name.endswith((".safetensors.index.json", INDEX)) and path.is_file()

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies in the shards; the index is a companion.

        Raises:
            MissingFile: there is no such file.
            UnreadableFile: a file is damaged, missing or elsewhere, or index and shards contradict each other.
            UnsafePickle: a torch file names code and `trust` is False.
        """
        if path.name.endswith(INDEX):
            return joined_torch("sharded", path, read_shards(path, trust=trust), companions=(path.name,))
        return joined("sharded", path, read_index(path).headers, companions=(path.name,))

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Write shards and index anew, each tensor into the shard that it came from.

        Raises:
            Infeasible: a tensor of the original is of a type that torch has no word for, or the rest of a torch file needs code.
            BadData: a type or layout that safetensors has no word for.
            DiskFailure: the file system refused.
        """
        if layout.path.name.endswith(INDEX):
            write_shards(layout, table, tensors, folder, others=others, index=layout.path.name)
            return
        write_anew(layout, tensors, folder, others=others, index=layout.path.name)
