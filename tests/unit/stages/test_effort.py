"""Multiply-adds of training, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.stages.effort import Effort
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples


def effort() -> Effort:
    """A convolution of 2 x 1 x 2 x 2 on 5 x 5 images (16 positions: 128) and a linear layer of 3 x 32 (96): f_D = 224."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    samples = Samples(torch.zeros(4, 1, 5, 5), torch.zeros(4, dtype=torch.long), ("a", "b", "c", "d"))
    return Effort(model, samples)


def numbers(found: Effort) -> tuple[float, float]:
    """Absolute and relative."""
    return tuple(float(f.value or 0) for f in found.findings())  # type: ignore[return-value]


def test_dense_training() -> None:
    """Two steps of 10 samples: 2 x 10 x 3 x 224, all of dense training."""
    found = effort()
    found.add(MaskSet(), (3, 0), samples=10)
    found.add(MaskSet(), (3, 0), samples=10)
    assert numbers(found) == (13440, 1.0)


def test_masked_steps_and_dense_gradients() -> None:
    """Half the convolution gone: f_S = 64 + 96 = 160. A sparse step 3 f_S, one with dense gradients 2 f_S + f_D, of 2 x 3 f_D."""
    found = effort()
    masks = MaskSet({"0.weight": torch.arange(8).view(2, 1, 2, 2) % 2 == 0})
    found.add(masks, (3, 0), samples=10)
    found.add(masks, (2, 1), samples=10)
    assert numbers(found) == (10 * (480 + 544), pytest.approx(1024 / 1344))


def test_a_resumed_run_goes_on_counting() -> None:
    """What was spent before counts."""
    first = effort()
    first.add(MaskSet(), (3, 0), samples=10)
    second = Effort(nn.Linear(2, 2), Samples(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), ("a", "b")), done=(6720.0, 6720.0))
    second.add(MaskSet(), (3, 0), samples=1)
    assert numbers(second) == (numbers(first)[0] + 12, 1.0)


def test_nothing_without_steps() -> None:
    """A run that took no step says nothing."""
    assert effort().findings() == []
