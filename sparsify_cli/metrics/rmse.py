"""Root mean square error of predicted numbers, in their own unit, over all numbers of all samples and of each group.

0 is perfect; the standard deviation of the truth is what its mean as the only answer would have.
One large error weighs as much as many small.

Source: standard; intervals over samples by linearisation (maths/ratios.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import ROOT, compared, losses
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="rmse",
    value=None,
    unit="",
    better="lower",
    definition="Root of the mean squared difference between predicted and true numbers.",
    source="standard; bootstrap over samples, paired for the change",
)


@dataclass(frozen=True)
class RMSE(Metric):
    """Root mean square error.

    Args:
        least: fewer samples than this are "not enough data".
    """

    least: int = 10
    kinds = frozenset(("numbers",))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Of all samples and each group: the compressed and the dense model and the change."""
        return compared(Comparison(ABOUT, self.least, (0.0, float("inf"))), losses, evidence.sides, ROOT)
