"""Prune a trained network once by magnitude, then train it again as it was trained, the mask fixed (ASP).

    1  a trained network comes in
    2  masks are chosen once, before the first step, at the target sparsity and pattern (--pattern 2:4 for ASP's own)
    3  it is trained again: gradients masked, step, weights masked; optimizer and schedule start anew

Step 3 is meant to repeat the recipe of step 1: the same epochs, peak learning rate and warm-up. Going on at the last, small
learning rate gives most of the recovery away. Channels can be permuted before (`prune --permute`), which keeps more magnitude.

Source: Mishra et al. 2021 (arXiv 2104.08378), the three-step recipe; NVIDIA apex `apex/contrib/sparsity/asp.py`. Differs: apex
prunes linear and convolution weights whose outputs are a multiple of 8 and whose input channels are one of 16; here every layer
that the pattern fits is pruned, but those left out with --skip. There is no option for apex's rule, because the layers decide
what the target is: leave out what it leaves out with --skip. The criterion is the recipe's, and any pattern or sparsity will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.training import aim, guard, masking
from sparsify_cli.values.run import Run


@dataclass(frozen=True)
class Asp(Regime):
    """One-shot masks, then retraining."""

    def start(self, run: Run) -> None:
        """Choose the masks, once.

        Raises:
            BadRequest: no target, or a criterion that ranks how weights moved.
        """
        aim.refuse_movement(run, "asp")
        guard.enforce(run)
        masking.switch(run, aim.masks_at_target(run), event="pruned")

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One guarded optimizer step."""
        return guard.descend(run, loss)
