"""1,797 real handwritten digits, 8x8 pixels, embedded in scikit-learn: no download, no network.

Inputs are [n, 1, 8, 8] in [0, 1] (ink, 1 = full). The split is stratified and fixed: inside each class the samples are
shuffled by hash, all are laid in one row class after class, and of every five in that row the first goes to test, the second
to validation, the others to train: 1,077 / 360 / 360 samples, the same share of each class within one. The writers of
the splits overlap: scikit-learn does not say who wrote which digit.

Two group columns are measured on the pixels and compared with the *training* digits of the same class, so that a group
is not a class in disguise. The label is used for that comparison only.

    stroke   width = 2 A / P in pixels, A = pixels with at least half ink, P = edges between those and the others: for a long bar
             of width w it is w. `thick` from the class's training median on, else `thin`.
    slant    mu11 / mu02, the shear that would make the digit upright: mu11 = sum ink dx dy, mu02 = sum ink dy^2, dx to the right
             and dy upwards from the centre of the ink. `left` below the first, `right` from the second training
             tercile of the class on, else `upright`: words relative to how this class is usually written.

Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI, test part), as `sklearn.datasets.load_digits`.
The slant is the usual moment-based deslanting angle (LeCun et al. 1998 deskew with it); the groups are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sparsify_cli.contracts.dataset import Dataset, Split
from sparsify_cli.maths.holdout import shuffled
from sparsify_cli.values.samples import Samples

FIFTHS: dict[Split, tuple[int, ...]] = {"train": (2, 3, 4), "validation": (1,), "test": (0,)}
"""Which of every five samples go to a split."""


@dataclass(frozen=True)
class Digits(Dataset):
    """Scikit-learn's embedded handwritten digits."""

    def load(self, split: Split) -> Samples:
        """1,077 training, 360 validation or 360 test digits, in scikit-learn's order."""
        samples, fifths = _all()
        return samples.take(np.flatnonzero(np.isin(fifths, FIFTHS[split])).tolist())


@lru_cache(maxsize=1)
def _all() -> tuple[Samples, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images, targets = bunch.images / 16.0, bunch.target.astype(np.int64)
    fifths = _fifths(targets)
    samples = Samples(
        inputs=torch.tensor(images[:, None], dtype=torch.float32),
        targets=torch.tensor(targets),
        ids=tuple(f"digits-{i:04d}" for i in range(len(targets))),
        groups=_groups(images, targets, np.isin(fifths, FIFTHS["train"])),
        classes=tuple(str(digit) for digit in range(10)),
    )
    return samples, fifths


def _fifths(targets: Int[np.ndarray, " n"]) -> NDArray[np.int64]:
    order = shuffled(len(targets)).numpy()
    row = order[np.argsort(targets[order], kind="stable")]
    fifths = np.empty(len(targets), dtype=np.int64)
    fifths[row] = np.arange(len(targets)) % 5
    return fifths


def _groups(images: Float[np.ndarray, "n 8 8"], targets: Int[np.ndarray, " n"], train: NDArray[np.bool_]) -> dict[str, tuple[str, ...]]:
    width, lean = stroke_width(images), slant(images)
    thick = width >= _class_quantile(width, targets, train, 1 / 2)
    third = (lean >= _class_quantile(lean, targets, train, 1 / 3)).astype(int) + (lean >= _class_quantile(lean, targets, train, 2 / 3))
    return {
        "stroke": tuple("thick" if value else "thin" for value in thick),
        "slant": tuple(("left", "upright", "right")[value] for value in third),
    }


def _class_quantile(
    values: Float[np.ndarray, " n"], targets: Int[np.ndarray, " n"], train: NDArray[np.bool_], share: float
) -> NDArray[np.float64]:
    """For every sample, the quantile of `values` over the training samples of its class."""
    cuts = np.array([np.quantile(values[train & (targets == label)], share) for label in range(10)])
    return np.asarray(cuts[targets], dtype=np.float64)


def stroke_width(images: Float[np.ndarray, "n height width"]) -> Float[np.ndarray, " n"]:
    """Mean width of the strokes, in pixels: 2 A / P of the pixels with at least half ink.

    Args:
        images: ink in [0, 1]; every image has at least one pixel with half ink.
    """
    shape = np.pad(images >= 0.5, ((0, 0), (1, 1), (1, 1)))
    edges = (shape[:, 1:] != shape[:, :-1]).sum(axis=(1, 2)) + (shape[:, :, 1:] != shape[:, :, :-1]).sum(axis=(1, 2))
    return np.asarray(2.0 * shape.sum(axis=(1, 2)) / edges)


def slant(images: Float[np.ndarray, "n height width"]) -> Float[np.ndarray, " n"]:
    """Shear mu11 / mu02 of the ink; positive leans to the right, like `/`; no unit.

    Args:
        images: ink in [0, 1]; every image has ink in at least two rows.
    """
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]].astype(float)
    ink = images.sum(axis=(1, 2))
    dx = columns - ((images * columns).sum(axis=(1, 2)) / ink)[:, None, None]
    dy = ((images * rows).sum(axis=(1, 2)) / ink)[:, None, None] - rows
    return np.asarray((images * dx * dy).sum(axis=(1, 2)) / (images * dy * dy).sum(axis=(1, 2)))
