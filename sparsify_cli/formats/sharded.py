"""Several safetensors files and the index that says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.shard_files import joined, write_anew
from sparsify_cli.values.shard_index import read_index

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sharded(Format):
    """Known by the name of the index, `*.safetensors.index.json`; nothing else of its folder belongs to it."""

    def recognises(self, path: Path) -> bool:
        """True for a file of that name."""
        return path.name.endswith(".safetensors.index.json") and path.is_file()

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies in the shards; the index is a companion.

        Raises:
            MissingFile: there is no such file.
            UnreadableFile: a file is damaged, missing or elsewhere, or index and shards contradict each other.
        """
        return joined("sharded", path, read_index(path).headers, companions=(path.name,))

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Write shards and index anew, each tensor into the shard that it came from.

        Raises:
            Infeasible: a tensor of the original is of a type that torch has no word for.
            BadData: a type or layout that safetensors has no word for.
            DiskFailure: the file system refused.
        """
        write_anew(layout, tensors, folder, others=others, index=layout.path.name)
