"""Tensors stored as their non-zero values and a bitmask of where they are: one bit a weight, each row padded to whole bytes.

The first position of a row is the lowest bit of its first byte. `sparse-bitmask` keeps the values in one line and where each
row begins in it; `sparse-24-bitmask` keeps them [rows, columns / 2]. Everything a file says twice has to agree.

Source: compressed_tensors/compressors/sparse_compressors/sparse_bitmask.py and sparse_24_bitmask.py, which believe the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Integer, Shaped, UInt8
from torch import Tensor

from sparsify_cli.errors import UnreadableFile


@dataclass(frozen=True, eq=False)
class Bitmask:
    """One tensor in parts.

    Args:
        name: of the tensor, for messages.
        values: what is kept, in row-major order.
        bits: the packed positions.
        sizes: the shape of the tensor, as numbers.
        offsets: how many values lie before each row; None where the file does not say.
    """

    name: str
    values: Shaped[Tensor, "..."]
    bits: UInt8[Tensor, "..."]
    sizes: Integer[Tensor, "..."]
    offsets: Shaped[Tensor, "..."] | None = None

    def dense(self) -> Shaped[Tensor, "..."]:
        """The plain tensor; +0.0 where nothing is kept.

        Raises:
            UnreadableFile: the parts contradict each other.
        """
        mask = self.mask()
        found = torch.zeros(mask.shape, dtype=self.values.dtype)
        found[mask] = self.values.detach().reshape(-1)
        return found

    def mask(self) -> Bool[Tensor, "..."]:
        """Where values are kept; bool, True = kept.

        Raises:
            UnreadableFile: the parts contradict each other.
        """
        shape = self._shape()
        wide = np.unpackbits(self.bits.numpy(), axis=-1, bitorder="little")
        kept = wide[..., : shape[-1]].astype(bool)
        marked, stored = int(np.count_nonzero(wide)), self.values.numel()
        if marked != np.count_nonzero(kept):
            raise self._contradiction(f"its bitmask marks positions behind the {shape[-1]} columns of a row")
        if marked != stored:
            raise self._contradiction(f"its bitmask marks {marked:,} weights and {stored:,} values are stored")
        self._check_rows(kept)
        return torch.from_numpy(kept)

    def _shape(self) -> tuple[int, ...]:
        """The sizes, once they are known to fit the bytes that are there."""
        shape = tuple(int(size) for size in self.sizes.reshape(-1)[:65])
        if not 1 <= len(shape) <= 64 or min(shape) < 0:
            raise self._contradiction(f"{list(shape)} is no shape")
        if tuple(self.bits.shape) != (*shape[:-1], -(-shape[-1] // 8)):
            raise self._contradiction(f"its shape is {list(shape)} and its bitmask is {list(self.bits.shape)}")
        return shape

    def _check_rows(self, kept: Bool[np.ndarray, "..."]) -> None:
        """Each row has as many values as its bits say, where the file tells rows apart."""
        counts = np.asarray(kept.sum(axis=-1), dtype=np.int64)
        before = np.cumsum(counts, axis=0) - counts if counts.ndim else np.zeros(1, dtype=np.int64)
        if self.offsets is not None and not np.array_equal(before.reshape(-1), self.offsets.numpy().reshape(-1)):
            raise self._contradiction("its row offsets do not count the bits of its bitmask")
        if self.values.ndim == 2 and not (len(self.values) == len(kept) and bool((counts == self.values.shape[1]).all())):
            raise self._contradiction(f"it stores {list(self.values.shape)} values and its bitmask marks others")

    def _contradiction(self, why: str) -> UnreadableFile:
        return UnreadableFile(f"{self.name} cannot be unpacked: {why}.", "The file is damaged.", "Copy or save the checkpoint again.")
