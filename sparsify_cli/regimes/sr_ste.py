"""Train dense weights through masks chosen anew at every step, and let dropped weights decay (SR-STE).

    forward, backward   at W~ = W * mask(W), the mask of the target sparsity and pattern
    gradient            g = dL/dW~ + lam * (1 - mask) * W
    step                the optimizer's, on the dense W

The decay pulls dropped weights to zero, so that the mask settles: SAD, the number of mask bits that change, falls as `lam`
grows; a negative `lam` stirs the masks up. lam = 0 is the regime ste. The masks of the last weights become the network's
(`until`). While it trains the network itself stays dense: sparsity and accuracy that are shown on the way are those of W,
not of W~, but batch norm gathers its statistics through the masks. What was pruned before the run stays pruned.

The term is part of the gradient, as published: momentum amplifies it by 1 / (1 - momentum), and it comes on top of weight decay.
With AdamW expect less: its second moment is badly estimated from masked weights (Lu et al. 2023, STEP, arXiv 2302.01172). A
network that starts from nothing needs layers with a share of their own (--pattern 2:4, --allocation uniform or erk): with one
sparsity for all, the layers whose weights start small may be cut off at the first step, and what is cut off learns nothing.

Source: Zhou et al. 2021 (SR-STE, arXiv 2102.04010), section 3 and figure 2b; official `devkit/sparse_ops/sparse_ops.py`, where
lam is always 2e-4. Differs: any pattern, sparsity, criterion and allocation of the recipe, not N:M by magnitude alone; N:M
runs along input channels (official NHWC layer); layers that it does not fit stay dense (the official stem of three channels
is grouped across kernel positions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsify_cli.errors import BadRequest
from sparsify_cli.training.straight_through import StraightThrough


@dataclass(frozen=True, kw_only=True)
class SrSte(StraightThrough):
    """Dense weights, masked in the forward pass; dropped ones decay.

    Args:
        lam: of the decay of dropped weights, in the gradient.
    """

    lam: float = 2e-4

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        super().__post_init__()
        if not math.isfinite(self.lam):
            raise BadRequest(f"sr-ste cannot decay by {self.lam}.", "", "Give lam a finite number; published is 2e-4.")

    @property
    def decay(self) -> float:
        """Of weights that the mask drops."""
        return self.lam
