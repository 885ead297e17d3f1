"""Torch checkpoints as torch 0.1.10 to 1.5 saved them: five pickles one after the other, then the numbers of each storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.format import Format
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.torch_legacy_file import is_pickle, legacy_layout, legacy_tree

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TorchLegacy(Format):
    """A torch checkpoint of pickles and numbers; of bare pickles it says what they are."""

    def recognises(self, path: Path) -> bool:
        """True for a file that begins like a pickle, of torch or not."""
        return is_pickle(path)

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies, from the pickles and the length of each storage; no storage is read."""
        return legacy_layout(path, trust=trust)

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Load everything else, put the table in its place, and save it as pickles and numbers."""
        from sparsify_cli.values import torch_rebuild

        whole = torch_rebuild.rebuilt(layout, legacy_tree(layout.path), table, tensors, others=others)
        torch_rebuild.save(folder / layout.files[0], whole, zipped=False)
