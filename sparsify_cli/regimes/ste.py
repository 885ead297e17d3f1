"""Train dense weights through masks chosen anew at every step, the gradient straight through (STE).

    forward, backward   at W~ = W * mask(W), the mask of the target sparsity and pattern
    gradient            g = dL/dW~, for every weight of W
    step                the optimizer's, on the dense W

So a dropped weight goes on learning and may come back. The masks of the last weights become the network's (`until`). While it
trains the network itself stays dense: sparsity and accuracy that are shown on the way are those of W, not of W~, but batch
norm gathers its statistics through the masks. What was pruned before the run stays pruned.

A network that starts from nothing needs layers with a share of their own (--pattern 2:4, --allocation uniform or erk): with one
sparsity for all, the layers whose weights start small may be cut off at the first step, and what is cut off learns nothing.

Source: Bengio et al. 2013 (arXiv 1308.3432), the estimator; Zhou et al. 2021 (SR-STE, arXiv 2102.04010), section 3 and
figure 2a, its use for masks. Differs: any pattern, sparsity, criterion and allocation of the recipe, not N:M by magnitude
alone; N:M runs along input channels (official NHWC layer), and layers that it does not fit stay dense.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_cli.training.straight_through import StraightThrough


@dataclass(frozen=True, kw_only=True)
class Ste(StraightThrough):
    """Dense weights, masked in the forward pass."""
