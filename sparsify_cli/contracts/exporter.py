"""The promise of an exporter: files that load elsewhere, and the proof that they hold the same network. Always a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from sparsify_cli.values.checkpoint import Checkpoint
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding


@dataclass(frozen=True, eq=False)
class Exportable:
    """What is exported.

    Args:
        checkpoint: tensors with masks already folded in (pruned weights are real zeros).
        masks: which weights stay.
        build: makes the module with these tensors, in eval mode; None when no architecture is known.
        inputs: a few real inputs [n, ...], n >= 2; None when no data is known.
    """

    checkpoint: Checkpoint
    masks: MaskSet
    build: Callable[[], nn.Module] | None = None
    inputs: Tensor | None = None


class Exporter(ABC):
    """Writes and verifies one format. A frozen dataclass; its fields are its options."""

    @abstractmethod
    def export(self, subject: Exportable, folder: Path) -> list[Path]:
        """Write the network into `folder` (which exists); return the files, the main one first.

        Raises:
            MissingContext: the format needs an architecture or inputs and none is known.
        """

    @abstractmethod
    def verify(self, subject: Exportable, folder: Path) -> list[Finding]:
        """Read the files back and compare with `subject`; findings say by how much they differ.

        Raises:
            Regression: the difference exceeds the format's bound.
        """
