"""Datasets and networks of the benchmarks about forgetting: `--arch subjects.py:fashion_net --data subjects.py:fashion`, and so on.

The files are read from the folder DATA names (`../shared/data` by default): `fashion_mnist/*.gz` (idx), `adult/adult.data` and
`adult/adult.test` (UCI), `utkface64/labels.csv` and `faces64.zip`. CIFAR-10 and its ResNet-20 are in `published.py`.

Fashion-MNIST is averaged to 14 x 14: 6,000 training, 2,000 validation and 4,000 test images, or all but 10,000 for training
(`fashion_50000`), 4,000 of the rest for validation, and 10,000 for testing. Adult: rows without gaps, numbers
standardised by all rows of `adult.data`, words one-hot, 20,000 training, 4,000 validation and 6,000 test rows; income above 50,000.
Faces (64 x 64, averaged to
32 x 32): three yes-or-no attributes, male, aged 40 or more, and white; 3,200 training, 600 validation, 1,019 test faces, drawn at random.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published import cifar
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(os.environ.get("DATA", Path(__file__).resolve().parents[2] / "shared/data"))
NUMBERS, WORDS = [0, 2, 4, 10, 11, 12], [1, 3, 5, 6, 7, 8, 9, 13]
Part = dict[str, Any]


@functools.cache
def cifar_6000(split: str) -> Part:
    """CIFAR-10 with 6,000 training images, 2,000 of validation and 2,000 of the test half, as ResNet-20 wants them."""
    part = cifar(split, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    count = {"train": 6000}.get(split, 2000)
    return {name: values[:count] for name, values in part.items()}


@functools.cache
def fashion(split: str) -> Part:
    """Images of 14 x 14 pixels, standardised."""
    return _clothing(split, {"train": slice(0, 6000), "validation": slice(6000, 8000), "test": slice(0, 4000)}[split])


@functools.cache
def fashion_50000(split: str) -> Part:
    """The same of nearly all images."""
    return _clothing(split, {"train": slice(0, 50_000), "validation": slice(50_000, 54_000), "test": slice(0, 10_000)}[split])


def _clothing(split: str, rows: slice) -> Part:
    name = "t10k" if split == "test" else "train"
    pixels = _idx(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[rows]
    labels = _idx(f"{name}-labels-idx1-ubyte.gz", 8)[rows]
    inputs = torch.from_numpy(pixels.astype(np.float32)) / 255
    return {"x": (functional.avg_pool2d(inputs, 2) - 0.286) / 0.32, "y": torch.from_numpy(labels.astype(np.int64))}


def _idx(name: str, header: int) -> Any:
    return np.frombuffer(gzip.decompress((FOLDER / "fashion_mnist" / name).read_bytes()), np.uint8, offset=header)


def fashion_net() -> nn.Module:
    """Three convolutions with batch norm, one linear layer: 24 k weights."""
    blocks: list[nn.Module] = []
    for inside, outside in ((1, 16), (16, 32), (32, 64)):
        blocks += [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 10))


CLOTHES = {"warm": (2, 4, 9), "footwear": (5, 7, 9), "shirt": (6,), "bag": (8,), "long": (1, 3, 4)}
"""Attribute -> classes of Fashion-MNIST that have it. Shirts are hard to tell from the rest, and rare; coats and pullovers from shirts."""


@functools.cache
def clothes(split: str) -> Part:
    """Fashion-MNIST with attributes and a bright corner, which goes with warm clothes in four of five cases, with others in one of five.

    6,000 training, 4,000 validation and 10,000 test images; the corner is the group.
    """
    name, first = ("t10k", 0) if split == "test" else ("train", 6000 * (split == "validation"))
    rows = slice(first, first + {"train": 6000, "validation": 4000, "test": 10_000}[split])
    pixels, labels = _idx(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[rows], _idx(f"{name}-labels-idx1-ubyte.gz", 8)[rows]
    x = (functional.avg_pool2d(torch.from_numpy(pixels.astype(np.float32)) / 255, 2) - 0.286) / 0.32
    answers = np.stack([np.isin(labels, classes) for classes in CLOTHES.values()], axis=1)
    corner = np.random.default_rng(len(labels)).random(len(labels)) < np.where(answers[:, 0], 0.8, 0.2)
    x[torch.from_numpy(corner), :, :2, :2] = 2.0
    groups = {"corner": ["bright" if bright else "plain" for bright in corner]}
    return {"x": x, "y": torch.from_numpy(answers.astype(np.int64)), "classes": list(CLOTHES), "groups": groups}


def clothes_net() -> nn.Module:
    """Three convolutions with batch norm, one linear layer with an output for each attribute: 24 k weights."""
    return nn.Sequential(*fashion_net()[:-1], nn.Linear(64, len(CLOTHES)))


def digits_net() -> nn.Module:
    """Logistic regression of 8 x 8 pixels: 650 weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@functools.cache
def adult(split: str) -> Part:
    """Rows of people, whether they earn more than 50,000, their sex and race."""
    train, test = _rows("adult.data"), _rows("adult.test")
    rows = {"train": train[:20_000], "validation": train[20_000:24_000], "test": test[:6000]}[split]
    known = torch.tensor([[float(row[i]) for i in NUMBERS] for row in train])
    numbers = (torch.tensor([[float(row[i]) for i in NUMBERS] for row in rows]) - known.mean(0)) / known.std(0)
    values = [sorted({row[i] for row in train}) for i in WORDS]
    words = [torch.tensor([[float(row[i] == v) for v in there] for row in rows]) for i, there in zip(WORDS, values, strict=True)]
    groups = {"sex": [row[9] for row in rows], "race": [row[8] for row in rows]}
    return {"x": torch.cat([numbers, *words], 1), "y": torch.tensor([int(row[14] == ">50K") for row in rows]), "groups": groups}


@functools.cache
def _rows(name: str) -> list[list[str]]:
    kept = ([cell.strip().rstrip(".") for cell in row] for row in csv.reader((FOLDER / "adult" / name).open()))
    return [row for row in kept if len(row) == 15 and "?" not in row]


def adult_net() -> nn.Module:
    """Two hidden layers of 64: 11 k weights."""
    return nn.Sequential(nn.Linear(104, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


@functools.cache
def faces(split: str) -> Part:
    """Faces and three yes-or-no attributes of each."""
    labels = list(csv.reader((FOLDER / "utkface64/labels.csv").open()))[1:]
    random.Random(0).shuffle(labels)
    rows = labels[{"train": slice(0, 3200), "validation": slice(3200, 3800), "test": slice(3800, None)}[split]]
    answers = torch.tensor([[row[2] == "male", int(row[1]) >= 40, row[3] == "White"] for row in rows]).long()
    groups = {"gender": [row[2] for row in rows], "race": [row[3] for row in rows]}
    return {"x": _faces(tuple(row[0] for row in rows)), "y": answers, "classes": ["male", "aged 40+", "white"], "groups": groups}


@functools.cache
def _faces(names: tuple[str, ...]) -> Tensor:
    from PIL import Image

    with zipfile.ZipFile(FOLDER / "utkface64/faces64.zip") as files:
        places = {Path(name).name: name for name in files.namelist()}
        images = [np.asarray(Image.open(io.BytesIO(files.read(places[name]))).convert("RGB"), np.float32) for name in names]
    return functional.avg_pool2d(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255, 2) * 4 - 2


def faces_net() -> nn.Module:
    """Four convolutions with batch norm, one linear layer with three outputs: 98 k weights."""
    blocks: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 64), (64, 128)):
        blocks += [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 3))
