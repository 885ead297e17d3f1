"""Only the weights that are not zero and where they lie, bit for bit, in a compressed safetensors file.

The file is `model.packed.safetensors`; each tensor lies there in the smallest of four exact forms (as it is, bitmask,
8-bit gaps, 16-bit gaps), described in `values/packed.py` and `values/tensor_file.py` so that another program can read
it. `sparsify_cli.load(path)` gives the tensors back.

Source: ours; the forms follow Hoefler et al. 2021 (arXiv 2102.00554), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsify_cli.contracts.exporter import Exportable, Exporter
from sparsify_cli.values.report import Finding
from sparsify_cli.values.tensor_file import forms, require_equal, save_packed

FILE = "model.packed.safetensors"


@dataclass(frozen=True)
class Packed(Exporter):
    """Smallest exact file, read by `sparsify_cli.load`."""

    def export(self, subject: Exportable, folder: Path) -> list[Path]:
        """Write `model.packed.safetensors`.

        Raises:
            BadData: a tensor that safetensors has no word for.
            DiskFailure: the file system refused.
        """
        save_packed(folder / FILE, subject.checkpoint.tensors)
        return [folder / FILE]

    def verify(self, subject: Exportable, folder: Path) -> list[Finding]:
        """Unpack the file and compare every value bit for bit; count the tensors in each form.

        Raises:
            Regression: a value differs, or a tensor is missing or too many.
            UnreadableFile: the file does not read or contradicts itself.
        """
        equal = require_equal(folder / FILE, subject.checkpoint.tensors)
        return equal + [
            Finding(name="tensors", value=float(count), unit="tensors", scope=f"form:{form}", definition=f"Tensors stored as {form}.")
            for form, count in forms(folder / FILE).items()
        ]
