"""Every tensor as it is, zeros included, in a safetensors file that any program loads.

The file is `model.safetensors`. Weights that two layers share are written once under each name (safetensors refuses
shared memory) and the metadata say which; `sparsify_cli.load` ties them again.

Source: the safetensors format, huggingface/safetensors, README "Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsify_cli.contracts.exporter import Exportable, Exporter
from sparsify_cli.values.report import Finding
from sparsify_cli.values.tensor_file import require_equal, save_dense

FILE = "model.safetensors"


@dataclass(frozen=True)
class Safetensors(Exporter):
    """Dense layout, loads anywhere."""

    def export(self, subject: Exportable, folder: Path) -> list[Path]:
        """Write `model.safetensors`.

        Raises:
            BadData: a tensor that safetensors has no word for.
            DiskFailure: the file system refused.
        """
        save_dense(folder / FILE, subject.checkpoint.tensors)
        return [folder / FILE]

    def verify(self, subject: Exportable, folder: Path) -> list[Finding]:
        """Read the file back and compare every value bit for bit.

        Raises:
            Regression: a value differs, or a tensor is missing or too many.
            UnreadableFile: the file does not read.
        """
        return require_equal(folder / FILE, subject.checkpoint.tensors)
