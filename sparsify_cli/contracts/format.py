"""The promise of a format: told from its first bytes, read from its headers, written anew where a patched copy is not enough."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.errors import Infeasible
from sparsify_cli.values.layout import Key, Layout

if TYPE_CHECKING:
    from torch import Tensor


class Format(ABC):
    """A kind of checkpoint. A frozen dataclass without options. Importing one imports neither torch nor onnx."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """True when a file or folder is of this kind, judged by first bytes, names in an archive, or names in a folder.

        No other format of the shelf says True of the same path. Never raises for an existing path.
        """

    @abstractmethod
    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every tensor lies. Reads headers only, runs nothing, believes nothing.

        Every place lies inside its file, has a known type, and at most 64 dimensions; sizes fit 63 bits.

        Args:
            path: a file or folder that this format recognises.
            trust: the user said --trust-pickle: a pickle that names code is read (still without running it).

        Raises:
            UnreadableFile: truncated, corrupt, contradictory.
            UnsafePickle: it names code and `trust` is False.
        """

    def rebuild(self, layout: Layout, table: Key, tensors: Mapping[str, Tensor], folder: Path, *, others: bool) -> None:
        """Write the checkpoint anew, for the case that names, shapes or types of its tensors changed.

        Files get the names they have in `layout`, companions are not copied. Tensors that share memory share it in the
        file where the kind can say so.

        Args:
            layout: of the original.
            table: which of its tables is replaced.
            tensors: what the table holds from now on.
            folder: where to write.
            others: True = everything else stays in the file; False = only the table, under its keys, remains.

        Raises:
            Infeasible: this kind cannot be written anew.
        """
        del table, tensors, folder, others
        raise Infeasible(
            f"{layout.path} cannot be written anew as {layout.kind}.",
            "Entries are dropped or folded, and files of this kind are only ever copied with changes.",
            "Leave --extras drop out, or choose --save-as safetensors.",
        )
