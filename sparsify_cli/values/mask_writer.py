"""A masks file that is written piece by piece, in any order: the same bytes as `write_masks` would write."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify_cli.values.atomic import disk_failures
from sparsify_cli.values.raw_file import CHUNK, opened, write_at
from sparsify_cli.values.safetensors_header import write_header


class MaskWriter:
    """Bits at their place in a masks file."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Nothing is written yet.

        Args:
            path: the file, which is there.
            shapes: name -> shape of every mask.
        """
        self.path = path
        names = sorted(shapes)
        sizes = {name: -(-math.prod(shapes[name]) // 8) for name in names}
        about = {"shapes": json.dumps({name: list(shapes[name]) for name in names})}
        self.header = write_header([(name, "uint8", (sizes[name],)) for name in names], about)
        self._sizes = sizes
        ends = np.cumsum([0, *sizes.values()]).tolist()
        self._starts = {name: len(self.header) + start for name, start in zip(names, ends, strict=False)}
        self.size = len(self.header) + ends[-1]

    def begin(self) -> None:
        """Write the header and make room for the bits.

        Raises:
            DiskFailure: the file system refused.
        """
        with disk_failures(self.path):
            with opened(self.path, write=True) as descriptor:
                write_at(descriptor, 0, np.frombuffer(self.header, dtype=np.uint8))
            with self.path.open("r+b") as file:
                file.truncate(self.size)

    def flush(self) -> None:
        """Have the system bring everything to the disk, so that what is resumed after a crash is there."""
        with opened(self.path, write=True) as descriptor:
            os.fsync(descriptor)

    def digest(self, names: Sequence[str]) -> str:
        """The sha256 of the bits of some masks, in that order, as they are on the disk."""
        state = hashlib.sha256()
        with opened(self.path) as descriptor:
            for name in names:
                for first in range(self._starts[name], self._starts[name] + self._sizes[name], CHUNK):
                    state.update(os.pread(descriptor, min(CHUNK, self._starts[name] + self._sizes[name] - first), first))
        return state.hexdigest()

    def put(self, descriptor: int, name: str, start: int, keep: npt.NDArray[Any]) -> None:
        """Write the bits of a slice that begins at element `start`, a multiple of 8."""
        write_at(descriptor, self._starts[name] + start // 8, np.packbits(keep, bitorder="little"))
