"""SNFS: as RigL, but growth follows an average of gradients, and layers with more momentum gain weights from the others.

    every step:     m = mu m + (1 - mu) dL/dw                                    (dense: also where there is no weight)
    every dT steps until T_end:
        drop        in each layer the int(alpha(t) n) smallest |w|
        share       what was dropped in all layers together, in proportion to the mean |m| of each layer's active weights;
                    a layer gets at most .99 of its free positions, and the others the rest
        grow        in each layer that many positions of largest |m| outside those kept

The total is constant, layers are not. Weights that were pruned in a given checkpoint may come back.

Source: Dettmers and Zettlemoyer 2019 (arXiv 1907.04840), Algorithm 1, on RigL's schedule (Evci et al. 2020, arXiv 1911.11134;
official code `rigl/sparse_optimizers.py`, `SparseMomentumOptimizer`, which has no redistribution; that is from
`sparselearning/core.py` of github.com/varun19299/rigl-reproducibility). Differs from the first: the average is kept apart from the
optimizer, so that any will do, and leaves weight decay out; it starts from 0 without correction, which changes no order and no share;
the share that is dropped is the same in layers with few zeros; steps, and not epochs; alpha is .3 (theirs .5); an update replaces
the optimizer's step, as RigL's does (in both codes it comes after the step). What else differs is said in
`training/drop_and_grow.py` and `maths/redistribution.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.redistribution import regrowth
from sparsify_cli.training import first_masks
from sparsify_cli.training.drop_and_grow import DropAndGrow, gradient
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import whole

AVERAGE = "snfs.momentum."


@dataclass(frozen=True, kw_only=True)
class Snfs(DropAndGrow):
    """Grows where the averaged gradient is largest, and moves weights between layers.

    Args:
        momentum: mu of the average, in [0, 1); it is not the optimizer's.
        redistribute: share what was dropped among layers; without it each layer's count is constant.
    """

    momentum: float = 0.9
    redistribute: bool = True

    def __post_init__(self) -> None:
        """Refuse an average that never learns."""
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise BadRequest(f"snfs cannot average with momentum {self.momentum:g}.", "", "Write a number in [0, 1), such as 0.9.")

    def passes(self, run: Run) -> tuple[float, float]:
        """A dense gradient at every step."""
        del run
        return 2.0, 1.0

    @torch.no_grad()
    def see(self, run: Run) -> None:
        """Add this step's gradient to the average."""
        for name in first_masks.moving(run):
            new = gradient(run, name)
            old = run.memory.get(AVERAGE + name, torch.zeros(())).to(new)
            run.memory[AVERAGE + name] = self.momentum * old + (1 - self.momentum) * new

    def score(self, run: Run, name: str, generator: torch.Generator) -> Tensor:
        """|m|."""
        return run.memory[AVERAGE + name].abs()

    def growth(self, run: Run, kept: Mapping[str, Tensor], dropped: Mapping[str, int]) -> Mapping[str, int]:
        """What was dropped in all layers, shared among them."""
        if not self.redistribute:
            return dropped
        means = [self._mean(run, name) for name in kept]
        free = [int((~mask).sum()) for mask in kept.values()]
        return dict(zip(kept, regrowth(means, sum(dropped.values()), free), strict=True))

    def _mean(self, run: Run, name: str) -> float:
        active = whole(run.memory[AVERAGE + name])[run.masks[name]]
        return float(active.abs().double().mean()) if len(active) else 0.0
