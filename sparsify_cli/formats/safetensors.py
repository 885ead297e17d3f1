"""One safetensors file: a header that says where each tensor lies, then the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.values.file_kind import MAGIC
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.safetensors_header import is_safetensors, read_header
from sparsify_cli.values.shard_files import joined, write_anew

if TYPE_CHECKING:
    from torch import Tensor

OTHERS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", *MAGIC)
"""First bytes of files of other kinds, whatever they are called."""


@dataclass(frozen=True)
class Safetensors(Format):
    """Known by its first bytes; by its name only when they say nothing, so that a damaged file is called damaged."""

    def recognises(self, path: Path) -> bool:
        """True for a file with such a header, and for one of that name which begins like nothing else."""
        return is_safetensors(path) or (path.suffix == ".safetensors" and _begins_like_nothing(path))

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies; only the header is read.

        Raises:
            MissingFile: there is no such file.
            UnreadableFile: truncated, corrupt, contradictory.
        """
        return joined("safetensors", path, {path.name: read_header(path)})

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Write other tensors under the same file name, tensor by tensor.

        Raises:
            Infeasible: a tensor of the original is of a type that torch has no word for.
            BadData: a type or layout that safetensors has no word for.
            DiskFailure: the file system refused.
        """
        write_anew(layout, tensors, folder, others=others)


def _begins_like_nothing(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return not file.read(32).startswith(OTHERS)
    except OSError:
        return False
