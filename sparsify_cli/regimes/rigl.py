"""RigL: sparse all along; the smallest weights make room where the gradient of the missing ones is largest.

    every dT steps until T_end, in each layer:  drop the k = int(alpha(t) n) smallest |w|,
                                                grow the k inactive positions of largest |dL/dw|
    alpha(t) = alpha/2 (1 + cos(pi t / T_end))

dL/dw is the dense gradient of this step's batch, computed with the masked weights and averaged over processes. The update takes
the place of the optimizer's step, so batch norm sees the batch and weights stay as they are. Each layer's count is constant.
Weights that were pruned in a given checkpoint may come back: that is the method.

Source: Evci et al. 2020 (arXiv 1911.11134), Algorithm 1; official code `rigl/sparse_optimizers.py`, `SparseRigLOptimizer`;
defaults of `imagenet_resnet` and `cifar_resnet` there (the flag `drop_fraction_anneal` is `constant` unless given; all published runs
use the cosine). What differs is said in `training/drop_and_grow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.training.drop_and_grow import DropAndGrow, gradient
from sparsify_cli.values.run import Run


@dataclass(frozen=True, kw_only=True)
class Rigl(DropAndGrow):
    """Grows where the dense gradient is largest; options are those of `DropAndGrow`."""

    def score(self, run: Run, name: str, generator: torch.Generator) -> Tensor:
        """|dL/dw|."""
        return gradient(run, name).abs()
