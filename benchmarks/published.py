"""CIFAR-10 networks that others trained, and its images as they want them.

Use: `--arch published.py:resnet20 --data published.py:resnet20_data` (also resnet56, shortcuts, ViT with vit_data).

The images are read from the folder CIFAR names (`../shared/data/cifar10` by default): stacks of packed pixels with their reader beside
it, labels in `*_meta.npz`. 18,000 training images, 2,000 of validation, the first 5,000 test images, none augmented.

Sources: K. He et al. 2015 (arXiv 1512.03385); weights by Y. Idelbayev (`resnet20-12fca82f.th`, shortcuts that pad channels), by the
makers of Distiller (`checkpoint_trained_dense.pth.tar`, shortcuts of 1x1 convolutions), and by Z. Shi (`vit_pgd_2_3_16`, trained
against attacks; its normalisation is over the batch).
"""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGES = Path(os.environ.get("CIFAR", Path(__file__).resolve().parents[2] / "shared/data/cifar10"))
PARTS = {"train": slice(0, 18000), "validation": slice(18000, None), "test": slice(None)}


class Block(nn.Module):
    """Two convolutions and what came in."""

    def __init__(self, inside: int, outside: int, convolved: bool) -> None:
        super().__init__()
        stride = 1 + (inside != outside)
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.added = (outside - inside) // 2
        if convolved and self.added:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both paths."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(self.shortcut(x) + y)

    def shortcut(self, x: Tensor) -> Tensor:
        """What came in, as wide and as small as what goes out."""
        if not self.added:
            return x
        return (
            self.downsample(x) if hasattr(self, "downsample") else functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        )


class ResNet(nn.Module):
    """Three stages of `blocks` blocks on 16, 32 and 64 channels."""

    def __init__(self, blocks: int, classifier: str, convolved: bool) -> None:
        super().__init__()
        self.conv1, self.bn1, self.classifier = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), classifier
        for i, (inside, outside) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            rest = [Block(outside, outside, convolved) for _ in range(blocks - 1)]
            setattr(self, f"layer{i}", nn.Sequential(Block(inside, outside, convolved), *rest))
        setattr(self, classifier, nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
        return getattr(self, self.classifier)(x.mean((2, 3)))


resnet20 = functools.partial(ResNet, 3, "linear", convolved=False)
resnet56 = functools.partial(ResNet, 9, "linear", convolved=False)
shortcuts = functools.partial(ResNet, 3, "fc", convolved=True)


class Norm(nn.BatchNorm1d):
    """Batch norm over samples and tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, normalised."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """Every token looks at all, with three heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """One vector for each token."""
        q, k, v = (layer(x).unflatten(2, (3, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and two linear layers, each after its norm and beside what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = Norm(width), Attention(width), Norm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One vector for each token."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(functional.relu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Two layers on four patches of 16 x 16 pixels and a class token; their mean is classified."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.cls_token, self.positions = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(5, width))
        self.projection, self.layers = nn.Conv2d(3, width, 16, 16), nn.ModuleList(Layer(width) for _ in range(2))
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        patches = self.projection(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), patches], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x.mean(1)))


def cifar(split: str, mean: list[float], deviation: list[float]) -> dict[str, Tensor]:
    """Images of one split with pixels in [0, 1] less `mean`, over `deviation`, a number for each of red, green and blue; labels."""
    stem, meta = ("x_test0000_4999", "test0000_4999") if split == "test" else ("x_train20k", "train20k")
    images = _pixels(stem).permute(0, 3, 1, 2)[PARTS[split]].float() / 255
    labels = torch.from_numpy(np.load(IMAGES / f"{meta}_meta.npz")["y"]).long()[PARTS[split]]
    return {"x": (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1), "y": labels}


@functools.cache
def _pixels(stem: str) -> Tensor:
    spec = importlib.util.spec_from_file_location("decode_med", IMAGES.parent / "decode_med.py")
    assert spec and spec.loader
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    return torch.from_numpy(reader.read_med(str(IMAGES / f"{stem}.med.npy.xz")))


def resnet20_data(split: str) -> dict[str, Tensor]:
    """As the networks of Y. Idelbayev want them."""
    return cifar(split, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def shortcuts_data(split: str) -> dict[str, Tensor]:
    """As Distiller's networks want them: pixels in [-1, 1]."""
    return cifar(split, [0.5] * 3, [0.5] * 3)


def vit_data(split: str) -> dict[str, Tensor]:
    """As Z. Shi's networks want them."""
    return cifar(split, [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616])
