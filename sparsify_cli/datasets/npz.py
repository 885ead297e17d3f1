"""Arrays in one numpy file (`npz:FILE`); nothing in it is unpickled.

    x_train, y_train                    needed; [n, ...] and integer labels [n] or [n, 1]
    x_validation, y_validation          or x_val, y_val; without them a fixed 10 % of train is held out
    x_test, y_test                      needed once the test split is asked for
    ids_<split>                         n unique names; default `train-000017`
    groups_<split>_<column>             n values, for the report by group
    classes                             names of the classes, by label

or, in one piece, `x`, `y`, `ids`, `groups_<column>`, `classes`: cut into 70 / 15 / 15 % train, validation, test by a fixed shuffle.

uint8 inputs are scaled to [0, 1]; other integers stay integers (token ids, say), so save features as floating-point
numbers; these, and booleans, become float32 as they are. uint8 inputs [n, height, width] are grey
images and become [n, 1, height, width].
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsify_cli.contracts.dataset import Dataset, Split
from sparsify_cli.errors import BadData, MissingFile
from sparsify_cli.maths.holdout import hold_out, shuffled
from sparsify_cli.values.arrays import samples_from
from sparsify_cli.values.samples import Samples

SUFFIXES: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
CUTS: dict[Split, tuple[float, float]] = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}
"""Where each split of a file in one piece begins and ends in the shuffled order."""


@dataclass(frozen=True)
class Npz(Dataset):
    """Arrays x_train, y_train, ... in one numpy file.

    Args:
        path: the .npz file.
        channels_last: True when images are [n, height, width, channels]; they become [n, channels, height, width].
    """

    path: str
    channels_last: bool = False

    def load(self, split: Split) -> Samples:
        """Samples of one split, in the order of the file."""
        file = Path(self.path)
        if not file.is_file():
            raise MissingFile(f"There is no file {file}.", "", "Give the .npz file: --data npz:FILE.")
        status = file.stat()
        return _load(self, split, (status.st_mtime_ns, status.st_size))

    def _samples(self, arrays: Mapping[str, Any], x: str, y: str, suffix: str, name: str) -> Samples:
        """The samples of the keys that end in `suffix` ("" = the file in one piece)."""
        mark = f"groups{suffix}_"
        return samples_from(
            self._inputs(arrays[x]),
            arrays.get(y),
            split=name,
            where=f"{self.path} ({x}, {y})",
            ids=_plain(arrays, f"ids{suffix}"),
            groups={key[len(mark) :]: arrays[key] for key in arrays if key.startswith(mark)},
            classes=_plain(arrays, "classes") or (),
        )

    def _inputs(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.channels_last and values.ndim == 4:
            values = values.transpose(0, 3, 1, 2)
        if values.dtype == np.uint8:
            return values[:, None] if values.ndim == 3 else values
        return values

    def _split(self, arrays: Mapping[str, Any], split: Split) -> Samples | None:
        for suffix in SUFFIXES[split]:
            x, y = f"x_{suffix}", f"y_{suffix}"
            if x in arrays and (y in arrays or _is_text(arrays[x])):
                return self._samples(arrays, x, y, f"_{suffix}", split)
            if x in arrays or y in arrays:
                raise BadData(
                    f"{self.path} holds {x if x in arrays else y} but not {y if x in arrays else x}.", "Inputs and labels come in pairs."
                )
        return None

    def _needed(self, arrays: Mapping[str, Any], split: Split) -> Samples:
        found = self._split(arrays, split)
        if found is not None:
            return found
        listed = ", ".join(sorted(arrays)) or "no array"
        raise BadData(f"{self.path} has no {split} split.", f"It holds {listed}.", f"Save x_{split} and y_{split}, or x and y.")

    def _fitting(self, part: Samples, train: Samples) -> Samples:
        """`part`, once its inputs have the shape of the training inputs."""
        shape, expected = list(part.inputs.shape[1:]), list(train.inputs.shape[1:])
        if shape == expected:
            return part
        raise BadData(f"{self.path}: inputs of {part.ids[0]} have shape {shape}, train inputs {expected}.", "One network takes one shape.")


@lru_cache(maxsize=6)
def _load(dataset: Npz, split: Split, stamp: tuple[int, int]) -> Samples:
    del stamp  # part of the key: a file that changed is read again
    arrays = _read(Path(dataset.path))
    if "x" in arrays and ("y" in arrays or _is_text(arrays["x"])):
        return _cut(dataset._samples(arrays, "x", "y", "", "sample"), split, dataset.path)
    train = dataset._needed(arrays, "train")
    _require_groups_of_splits(arrays, dataset.path)
    if split == "test":
        return dataset._fitting(dataset._needed(arrays, "test"), train)
    validation = dataset._split(arrays, "validation")
    if validation is not None:
        return train if split == "train" else dataset._fitting(validation, train)
    stay, held = hold_out(len(train))
    return train.take((held if split == "validation" else stay).sort().values)


def _require_groups_of_splits(arrays: Mapping[str, Any], path: str) -> None:
    """Refuse group columns that would not be read, because they name no split.

    Raises:
        BadData: there is one.
    """
    known = tuple(f"groups_{suffix}_" for suffixes in SUFFIXES.values() for suffix in suffixes)
    odd = [key for key in arrays if key.startswith("groups_") and not key.startswith(known)]
    if odd:
        column = odd[0].removeprefix("groups_")
        raise BadData(f"{path} holds {odd[0]}, which names no split.", "x_train and x_test are apart.", f"Save groups_test_{column}.")


def _is_text(x: np.ndarray[Any, Any]) -> bool:
    """True for ids of tokens, which need no labels."""
    return x.ndim == 2 and np.issubdtype(x.dtype, np.integer) and x.dtype != np.uint8


def _cut(samples: Samples, split: Split, path: str) -> Samples:
    begin, end = (round(len(samples) * edge) for edge in CUTS[split])
    if begin == end:
        raise BadData(f"{path} has too few samples to cut: {len(samples)}.", f"The {split} split would be empty.")
    return samples.take(torch.sort(shuffled(len(samples))[begin:end]).values)


def _plain(arrays: Mapping[str, Any], key: str) -> list[Any] | None:
    return arrays[key].tolist() if key in arrays else None


def _read(path: Path) -> dict[str, Any]:
    """Every array of the file.

    Raises:
        BadData: it is no .npz file, is damaged, or an array holds Python objects.
    """
    try:
        file: Any = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("one bare array; an archive of named arrays is needed")
        with file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(
            f"{path} does not read as arrays.",
            f"numpy says: {error}.",
            "Save plain numeric and text arrays with numpy.savez; Python objects are refused because reading them could run code.",
        ) from error
