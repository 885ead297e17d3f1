"""MNIST-family files: MNIST, Fashion-MNIST, KMNIST ... as idx or idx.gz in one folder (`idx:FOLDER`).

Inputs are [n, 1, height, width]: pixels / 255, then (x - mean) / std. The training file is cut into train and validation by a fixed
shuffle; the ids name the row of the file, `train-000017`, `test-000003`, so a validation sample keeps its `train-` id.

Source: LeCun, Cortes and Burges, "The MNIST database", section "File formats": big-endian magic 0 0 type dimensions, then the sizes,
then the values row by row; type 8 is unsigned byte.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsify_cli.contracts.dataset import Dataset, Split
from sparsify_cli.errors import BadData, BadRequest, MissingFile
from sparsify_cli.maths.holdout import hold_out
from sparsify_cli.values.samples import Samples

PREFIX = {"train": "train", "validation": "train", "test": "t10k"}


@dataclass(frozen=True)
class Idx(Dataset):
    """MNIST-family files in one folder.

    Args:
        path: folder with `train-images-idx3-ubyte[.gz]`, `train-labels-idx1-ubyte[.gz]` and the same for `t10k`.
        mean: subtracted from pixels in [0, 1].
        std: pixels are divided by it afterwards; above 0.
        validation: share of the training file held out, in [0, 1).
        limit: training samples used; 0 = all.
    """

    path: str
    mean: float = 0.0
    std: float = 1.0
    validation: float = 0.1
    limit: int = 0

    def __post_init__(self) -> None:
        """Refuse options that make no data."""
        if not (self.std > 0 and isfinite(self.std) and isfinite(self.mean)):
            raise BadRequest(
                f"std is {self.std} and mean is {self.mean}.", "Pixels become (x - mean) / std.", "Give finite numbers, std above 0."
            )
        if not 0 <= self.validation < 1 or self.limit < 0:
            raise BadRequest(
                f"validation is {self.validation} and limit is {self.limit}.", "The first is a share in [0, 1), the second a count."
            )

    def load(self, split: Split) -> Samples:
        """Samples of one split, in the order of the file."""
        images, labels, known = _pair(Path(self.path), PREFIX[split])
        rows = self._rows(split, len(images))
        pixels = torch.from_numpy(images)[rows].unsqueeze(1).to(torch.float32).div_(255)
        if (self.mean, self.std) != (0.0, 1.0):
            pixels.sub_(self.mean).div_(self.std)
        name = "test" if split == "test" else "train"
        return Samples(
            inputs=pixels,
            targets=torch.from_numpy(labels)[rows].to(torch.int64),
            ids=tuple(f"{name}-{row:06d}" for row in rows.tolist()),
            classes=tuple(map(str, range(known))),
        )

    def _rows(self, split: Split, n: int) -> Tensor:
        if split == "test":
            return torch.arange(n)
        stay, held = hold_out(n, self.validation)
        rows = held if split == "validation" else stay[: self.limit or None]
        if not len(rows):
            raise BadData(
                f"{self.path}: the {split} split is empty.",
                f"validation is {self.validation} of {n} samples.",
                "Change --data-arg validation=...",
            )
        return rows.sort().values


def _pair(folder: Path, prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """Images, labels and the number of classes (largest label of the training file, plus one)."""
    images, labels = (_read(_find(folder, prefix, kind), rank) for kind, rank in (("images", 3), ("labels", 1)))
    if len(images) != len(labels):
        raise BadData(f"{folder}: {len(images)} {prefix} images but {len(labels)} labels.", "The two files do not belong together.")
    if not len(images):
        raise BadData(f"{folder}: the {prefix} files hold no sample.")
    training = labels if prefix == "train" else _read(_find(folder, "train", "labels"), 1)
    return images, labels, int(max(labels.max(), training.max(initial=0))) + 1


def _find(folder: Path, prefix: str, kind: str) -> Path:
    rank = {"images": 3, "labels": 1}[kind]
    names = [f"{prefix}-{kind}{mark}idx{rank}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if found:
        return found[0]
    why = "The folder has no such file." if folder.is_dir() else "The folder does not exist."
    raise MissingFile(
        f"There is no {names[0]} or {names[1]} in {folder}.", why, "Give the folder that holds the four files: --data idx:FOLDER."
    )


def _read(path: Path, rank: int) -> NDArray[np.uint8]:
    status = path.stat()
    return _cached(path, rank, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=8)
def _cached(path: Path, rank: int, stamp: tuple[int, int]) -> NDArray[np.uint8]:
    del stamp  # part of the key: a file that changed is read again
    raw = _content(path)
    head = 4 + 4 * rank
    if len(raw) < head or raw[:4] != bytes((0, 0, 8, rank)):
        raise BadData(
            f"{path} is not an idx file of {rank}-dimensional bytes.",
            f"It begins with {raw[:4].hex(' ') or 'nothing'} instead of 00 00 08 {rank:02x}.",
            "Fetch it again.",
        )
    shape = struct.unpack(f">{rank}I", raw[4:head])
    if len(raw) - head != prod(shape):
        raise BadData(
            f"{path} holds {len(raw) - head} bytes of values.",
            f"Its header promises {' x '.join(map(str, shape))} = {prod(shape)}: it is truncated or has something appended.",
            "Fetch it again.",
        )
    return np.frombuffer(bytearray(raw), dtype=np.uint8, offset=head).reshape(shape)


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{path} does not unpack.", f"gzip says: {error}.", "Fetch it again.") from error
