"""Images in class folders (`folder:PATH`), read with Pillow: `cats/1.png` is a sample of the class `cats`.

With class folders below PATH/train and PATH/test (and PATH/validation or PATH/val) these are the splits; a missing validation
folder is replaced by the training images whose path hashes into the lowest 10 %. Otherwise the class folders lie in
PATH itself and every image goes to train (70 %), validation (15 %) or test (15 %) by the sha256 of its relative path, so that adding
images never moves another one; the shares hold on average. Ids are relative paths. `PATH/groups.csv` with the header
`id,<column>,...` and one row an image adds group columns.

Inputs are [n, channels, height, width] in [0, 1], then (x - mean) / std; the whole split is held in memory. Transparency is dropped.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sparsify_cli.contracts.dataset import Dataset, Split
from sparsify_cli.errors import BadData, BadRequest, MissingFile
from sparsify_cli.values.samples import Samples

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
CUTS: dict[Split, tuple[float, float]] = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}
"""Range of the path's hash, as a fraction in [0, 1), that goes to each split."""
HELD_OUT = 0.1
"""Training images whose hash lies below are the validation split, where there are split folders but none for validation."""


@dataclass(frozen=True)
class Folder(Dataset):
    """Images in class folders.

    Args:
        path: the folder.
        size: images are resized to size x size pixels; needed when they differ in size.
        grayscale: one channel instead of three.
        mean: subtracted from pixels in [0, 1]; a number, or one a channel separated by commas.
        std: pixels are divided by it afterwards; written like `mean`, above 0.
    """

    path: str
    size: int | None = None
    grayscale: bool = False
    mean: float | str = 0.0
    std: float | str = 1.0

    def __post_init__(self) -> None:
        """Refuse options that make no data."""
        if self.size is not None and self.size < 1:
            raise BadRequest(f"size is {self.size}.", "Images need at least one pixel.")
        if not bool((_numbers("std", self.std, self._channels) > 0).all()):
            raise BadRequest(f"std is {self.std}.", "Pixels are divided by it.", "Give numbers above 0.")
        _numbers("mean", self.mean, self._channels)

    def load(self, split: Split) -> Samples:
        """Samples of one split, sorted by class and path."""
        return _load(self, split)

    @property
    def _channels(self) -> int:
        return 1 if self.grayscale else 3

    def _scaled(self, pixels: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
        mean, std = (_numbers(name, getattr(self, name), self._channels).view(-1, 1, 1) for name in ("mean", "std"))
        return pixels.sub_(mean).div_(std)


@lru_cache(maxsize=6)
def _load(dataset: Folder, split: Split) -> Samples:
    root = Path(dataset.path)
    if not root.is_dir():
        raise MissingFile(f"There is no folder {root}.", "", "Give the folder of class folders: --data folder:PATH.")
    base = root / "train" if _has_splits(root) else root
    classes = tuple(sorted(folder.name for folder in base.iterdir() if _is_class(folder)))
    low, high = _hash_range(root, split)
    files = [file for file in _files(root, split) if low <= _hash(root, file) < high]
    if not files:
        raise BadData(f"{root} has no image for the {split} split.", f"Images end in {', '.join(sorted(IMAGES))} and lie in class folders.")
    ids = tuple(file.relative_to(root).as_posix() for file in files)
    labels = [name.split("/")[1 if base != root else 0] for name in ids]
    _require_known_classes(labels, classes, root)
    return Samples(
        inputs=dataset._scaled(_pixels(files, dataset)),
        targets=torch.tensor([classes.index(label) for label in labels]),
        ids=ids,
        groups=_groups(root / "groups.csv", ids),
        classes=classes,
    )


def _has_splits(root: Path) -> bool:
    """True when `train` is a folder of class folders; a class that is called train holds images itself."""
    train = root / "train"
    return train.is_dir() and any(_is_class(folder) for folder in train.iterdir())


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _split_folder(root: Path, split: Split) -> Path | None:
    return next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None)


def _files(root: Path, split: Split) -> list[Path]:
    """Images that may belong to a split, in a stable order."""
    base: Path | None = root
    if _has_splits(root):
        base = _split_folder(root, split)
        if base is None and split == "test":
            raise BadData(f"{root} has a train folder but no test folder.", "", f"Put held-out images into {root / 'test'}.")
    return sorted(_images(base or root / "train"))


def _images(base: Path) -> Iterator[Path]:
    for folder in filter(_is_class, base.iterdir()):
        found = [file for file in folder.rglob("*") if file.suffix.lower() in IMAGES and file.is_file()]
        if not found:
            raise BadData(f"The class folder {folder} holds no image.", f"Images end in {', '.join(sorted(IMAGES))}.", "Fill or remove it.")
        yield from found


def _hash_range(root: Path, split: Split) -> tuple[float, float]:
    """Hashes of the images among `_files` that belong to the split: from, below."""
    if not _has_splits(root):
        return CUTS[split]
    if split == "test" or _split_folder(root, "validation"):
        return 0.0, 1.0
    return (0.0, HELD_OUT) if split == "validation" else (HELD_OUT, 1.0)


def _hash(root: Path, file: Path) -> float:
    """A number in [0, 1) that depends on the relative path only."""
    digest = hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _require_known_classes(labels: Sequence[str], classes: Sequence[str], root: Path) -> None:
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise BadData(f"{root}: {len(unknown)} classes have no training folder, first {unknown[0]!r}.", f"Train has {', '.join(classes)}.")


def _pixels(files: Sequence[Path], dataset: Folder) -> Float[Tensor, "n channels height width"]:
    images = [_image(file, dataset) for file in files]
    odd = next((i for i, image in enumerate(images) if image.shape != images[0].shape), None)
    if odd is not None:
        first, other = (f"{files[i]} has {images[i].shape[1]} x {images[i].shape[0]}" for i in (0, odd))
        raise BadData(
            f"Images differ in size: {first}, {other} pixels.", "One network takes one size.", "Add --data-arg size=64, for instance."
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32).div_(255)


def _image(file: Path, dataset: Folder) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """One image [height, width, channels]."""
    try:
        with Image.open(file) as opened:
            deep = opened.mode.startswith(("I", "F"))
            image = opened.convert("L" if dataset.grayscale else "RGB")
    except Exception as error:  # Pillow's decoders raise many types on a corrupt file
        raise BadData(f"{file} does not read as an image.", f"Pillow says: {error}.", "Repair or remove it.") from error
    if deep:
        raise BadData(f"{file} has more than 8 bits a channel.", "Pillow would clip it.", "Convert it to 8 bits first.")
    if dataset.size is not None and image.size != (dataset.size, dataset.size):
        image = image.resize((dataset.size, dataset.size), Image.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


def _numbers(name: str, value: float | str, channels: int) -> Float[Tensor, " channels"]:
    """One number a channel.

    Raises:
        BadRequest: not numbers, or neither one nor `channels` of them.
    """
    try:
        numbers = [float(part) for part in str(value).split(",")]
    except ValueError as error:
        raise BadRequest(f"{name} is {value!r}.", "It is a number, or one a channel separated by commas.", f"Write {name}=0.5.") from error
    if not all(map(isfinite, numbers)):
        raise BadRequest(f"{name} is {value!r}.", "Pixels would become undefined.", f"Write {name}=0.5.")
    if len(numbers) not in (1, channels):
        raise BadRequest(f"{name} has {len(numbers)} numbers.", f"The images have {channels} channels.", f"Give 1 or {channels}.")
    return torch.tensor(numbers if len(numbers) == channels else numbers * channels)


def _groups(file: Path, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group columns of the ids; none when there is no file."""
    if not file.is_file():
        return {}
    rows, columns = _table(file)
    missing = [name for name in ids if name not in rows]
    if missing:
        raise BadData(
            f"{file} has no row for {len(missing)} of {len(ids)} images, first {missing[0]!r}.", "Ids are paths relative to its folder."
        )
    return {column: tuple(rows[name][column] or "unknown" for name in ids) for column in columns}


def _table(file: Path) -> tuple[Mapping[str, dict[str, str]], list[str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="", restkey="")
            header = list(reader.fieldnames or ())
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{file} does not read as CSV.", f"{error}.", "Save it as UTF-8 with commas.") from error
    if "id" not in header or len(header) < 2:
        raise BadData(f"{file} begins with {','.join(header)!r}.", "The header is `id` and at least one column, separated by commas.")
    return {row["id"]: row for row in rows}, [column for column in header if column != "id"]
