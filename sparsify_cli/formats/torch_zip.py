"""Torch checkpoints as torch 1.6 and later save them: a zip archive of one pickle and one member a storage, none compressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.torch_zip_file import is_torch_zip, zip_layout, zip_tree

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TorchZip(Format):
    """A torch checkpoint in a zip archive."""

    def recognises(self, path: Path) -> bool:
        """True for a zip archive with a torch pickle that is neither TorchScript nor a program of torch.export; also when cut off."""
        return is_torch_zip(path)

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies, from the directory of the archive and its pickle."""
        return zip_layout(path, trust=trust)

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Load everything else, put the table in its place, and save it as a zip archive."""
        from sparsify_cli.values import torch_rebuild

        whole = torch_rebuild.rebuilt(layout, zip_tree(layout.path), table, tensors, others=others)
        torch_rebuild.save(folder / layout.files[0], whole, zipped=True)
