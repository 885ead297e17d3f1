"""Uniform random numbers: the control every other criterion must beat.

The numbers depend on the seed, the tensor's name and its shape alone: not on the order of tensors, dtype or device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Random(LayerwiseCriterion):
    """Score ~ U[0, 1).

    Args:
        seed: another seed, another ranking.
    """

    seed: int = 0

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """Random numbers in [0, 1), same shape as `weight`, higher = keep."""
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        # float64, because 2^24 different float32 values would tie in large tensors.
        return torch.rand(weight.shape, dtype=torch.float64, generator=generator).to(weight.device)
