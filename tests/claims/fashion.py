"""The set-up of the small claims: Fashion-MNIST averaged to 14 x 14, 4,000 training images, the shelf's `cnn` (33 k weights).

Trained with the defaults of `train` (SGD 0.05, momentum 0.9, decay 5e-4, batches of 64, cosine) and images flipped at random.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.verbs import TrainRecipe
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.train import train

FOLDER = Path(__file__).resolve().parents[2] / "../shared/data/fashion_mnist"
needs_fashion = pytest.mark.skipif(not FOLDER.is_dir(), reason="Fashion-MNIST is not here")
DATA = f"{Path(__file__).resolve()}:images"


def images(split: str, classes: str = "0123456789", count: int = 4000) -> dict[str, Any]:
    """Pooled images of some classes, labelled in the order of `classes`: `count` for training, 2,000 for validation, all test images."""
    name = "t10k" if split == "test" else "train"
    pixels = np.frombuffer(gzip.decompress((FOLDER / f"{name}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((FOLDER / f"{name}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    place = np.full(10, -1)
    place[[int(c) for c in str(classes)]] = range(len(str(classes)))
    rows = np.flatnonzero(place[labels] >= 0)
    rows = {"train": rows[:count], "validation": rows[count : count + 2000], "test": rows}[split]
    inputs = torch.from_numpy(pixels.reshape(-1, 1, 28, 28)[rows].astype(np.float32)) / 255
    return {"x": (functional.avg_pool2d(inputs, 2) - 0.286) / 0.32, "y": torch.from_numpy(place[labels[rows]])}


def trained(folder: Path, regime: str, *, seed: int, epochs: int, **more: Any) -> Outcome:
    """`train` in this set-up."""
    classes = more.pop("arch_arg", ())
    name = "-".join([regime, str(seed), *(str(more[key]).replace("/", "_") for key in sorted(more) if key in ("sparsity", "allocation"))])
    recipe = TrainRecipe(
        arch="cnn", arch_arg=classes, **({"data": DATA} | more), augment="flip", epochs=epochs, seed=seed,
        regime=Choice(regime), out=str(folder / name),
    )  # fmt: skip
    return train(recipe, Listener())


def accuracy(outcome: Outcome) -> float:
    """Test accuracy, percent."""
    found = outcome.report.get("accuracy")
    assert found is not None and found.value is not None
    return 100 * found.value
