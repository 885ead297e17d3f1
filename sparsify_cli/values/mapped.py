"""Tensors that lie in files: mapped into memory, read when they are looked at, private to this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsify_cli.values.layout import Place


def mapped(root: Path, places: Mapping[str, Place]) -> dict[str, Tensor]:
    """Tensors by name, without reading a number; tensors at one place are one object. What is written to them stays in memory."""
    files: dict[str, npt.NDArray[Any]] = {}
    made: dict[Place, Tensor] = {}
    for place in places.values():
        if place.size and place.file not in files:
            files[place.file] = np.memmap(root / place.file, dtype=np.uint8, mode="c")
        if place not in made:
            made[place] = _tensor(files.get(place.file), place)
    return {name: made[place] for name, place in places.items()}


def _tensor(file: npt.NDArray[Any] | None, place: Place) -> Tensor:
    kind = getattr(torch, place.dtype)
    if file is None or not place.size:
        return torch.empty(place.shape, dtype=kind)
    flat = torch.from_numpy(file[place.offset : place.end])
    flat = flat.view(kind) if kind != torch.bool else flat != 0
    return flat.reshape(place.shape) if place.is_contiguous else flat.as_strided(place.shape, place.strides)
