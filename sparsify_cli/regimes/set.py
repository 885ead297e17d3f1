"""SET: sparse all along; the smallest weights make room for others at random positions.

    every dT steps until T_end, in each layer:  drop the k = int(alpha(t) n) smallest |w|,
                                                grow k positions drawn uniformly among the inactive ones

No dense gradient is ever needed. Each layer's count is constant. Weights that were pruned in a given checkpoint may come back.

Source: Mocanu et al. 2018 (arXiv 1707.04780), Algorithm 1, in the form in which RigL compares with it (Evci et al. 2020,
arXiv 1911.11134; official code `rigl/sparse_optimizers.py`, `SparseSETOptimizer`). Differs from the first: a share of all active
weights by magnitude, and not of the positive and of the negative ones; a cosine, and not a constant share; steps, and not epochs;
weights start from 0. Differs from the second: an update replaces the optimizer's step, as RigL's does (theirs comes after the step);
what else does is said in `training/drop_and_grow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsify_cli.training.drop_and_grow import DropAndGrow
from sparsify_cli.values.run import Run


@dataclass(frozen=True, kw_only=True)
class Set(DropAndGrow):
    """Grows at random; options are those of `DropAndGrow`."""

    looks_at_gradients: ClassVar[bool] = False

    def score(self, run: Run, name: str, generator: torch.Generator) -> Tensor:
        """Random numbers in [0, 1), the same on every process."""
        return torch.rand(run.masks[name].shape, dtype=torch.float64, generator=generator).to(run.masks[name].device)
