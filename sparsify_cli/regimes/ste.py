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

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training.straight_through import StraightThrough
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


@dataclass(frozen=True, kw_only=True)
class Ste(Regime):
    """Dense weights, masked in the forward pass.

    Args:
        until: when the masks stop changing, a duration from the start of the run; the rest trains with them fixed.
        sad_every: time between two measurements of how many mask bits changed (SAD), at least one step.
    """

    until: str = "1run"
    sad_every: str = "0.05run"

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        for text in (self.until, self.sad_every):
            Duration.parse(text)

    @property
    def _method(self) -> StraightThrough:
        return StraightThrough(0.0, self.until, self.sad_every)

    def seen(self, run: Run) -> MaskSet | None:
        """The masks of the weights as they are, until they hold."""
        return self._method.seen(run)

    def passes(self, run: Run) -> tuple[float, float]:
        """Through the masks, with the gradient of every weight; once they hold, an ordinary step."""
        return (2.0, 1.0) if self._method.is_dense(run) else (3.0, 0.0)

    def start(self, run: Run) -> None:
        """Make the masks the run starts with true of the weights."""
        self._method.start(run)

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One step of the dense weights, seen through this step's masks."""
        return self._method.step(run, loss)

    def finish(self, run: Run) -> None:
        """The last masks hold."""
        self._method.finish(run)
