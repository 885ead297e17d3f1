"""Train a dense network that can be pruned in one shot: each step follows the gradients at a compressed point and at itself (CrAM+).

    theta <- theta - lr * (M grad L(M (theta + rho g)) + g),  g = grad L(theta),  M = what --sparsity and --pattern keep of theta + rho g

The masks of the run stay as they are: the network stays dense, or as sparse as it started. `sparse_grad: false` leaves out the M before
the gradient. Pruned afterwards (`sparsify prune`), its batch-norm statistics must be measured anew, which is part of the method.
It serves the sparsity it was trained for and those below; for a list, see cram-multi. A step takes about the time of two; steps and
their exactness are told in `training/compressed_point.py` and `training/perturbed.py`.

Source: Peste et al. 2023 (CrAM, arXiv 2207.14200), official `optimization/custom_optimizers.py`: `TopkCrAM` with plus_version on; `every`:
`TopkCrAMPeriod`. Differs: as told in `training/compressed_point.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsify_cli.training.compressing import Compressing


@dataclass(frozen=True, kw_only=True)
class CramPlus(Compressing):
    """Follow the gradients at a compressed point and at the weights themselves."""

    called: ClassVar[str] = "cram-plus"
    plus: ClassVar[bool] = True
