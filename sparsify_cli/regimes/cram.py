"""Train a dense network that can be pruned in one shot: each step follows the gradient at a compressed point (CrAM).

    theta <- theta - lr * M grad L(M (theta + rho g)),  g = grad L(theta),  M = what --sparsity and --pattern keep of theta + rho g

The masks of the run stay as they are: the network stays dense, or as sparse as it started. Pruned afterwards (`sparsify prune`), its
batch-norm statistics must be measured anew, which is part of the method. A step takes about the time of two; steps and their
exactness are told in `training/compressed_point.py` and `training/perturbed.py`.

This is the first form of the paper; the regime cram-plus also follows g, and is better. Here a weight that C drops hears of nothing but
weight decay, so the dense network suffers. `sparse_grad: false` leaves out the M before the gradient, as the paper's formula does: the
dense network is better then, but once C empties a layer nothing brings it back (digits, 90 %, a network of 8 channels: it fails).

Source: Peste et al. 2023 (CrAM, arXiv 2207.14200), official `optimization/custom_optimizers.py`: `TopkCrAM` with plus_version off;
`every`: `TopkCrAMPeriod`. Differs: as told in `training/compressed_point.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsify_cli.training.compressing import Compressing


@dataclass(frozen=True, kw_only=True)
class Cram(Compressing):
    """Follow the gradient at a compressed point."""

    called: ClassVar[str] = "cram"
    plus: ClassVar[bool] = False
