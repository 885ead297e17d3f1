"""Mean absolute error of predicted numbers, in their own unit, over all numbers of all samples and of each group.

0 is perfect; beside the root mean square error it says whether errors are even or a few are large.

Source: standard; intervals over samples by linearisation (maths/ratios.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import compared
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="mae",
    value=None,
    unit="",
    better="lower",
    definition="Mean absolute difference between predicted and true numbers.",
    source="standard; bootstrap over samples, paired for the change",
)


def distances(positions: Positions) -> tuple[Tensor, Tensor]:
    """Absolute errors, and numbers, of each sample."""
    return positions.total(positions.losses.sqrt()), positions.counts


@dataclass(frozen=True)
class MAE(Metric):
    """Mean absolute error.

    Args:
        least: fewer samples than this are "not enough data".
    """

    least: int = 10
    kinds = frozenset(("numbers",))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Of all samples and each group: the compressed and the dense model and the change."""
        return compared(Comparison(ABOUT, self.least, (0.0, float("inf"))), distances, evidence.sides)
