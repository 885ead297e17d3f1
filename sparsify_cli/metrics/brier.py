"""Brier score: squared distance between the stated probabilities and the truth, summed over classes, mean over samples.

0 = certain and right, 2 = certain and wrong, 1 - 1/K = a uniform guess among K classes. This is Brier's original sum over
all classes; for two classes it is twice the one-probability form that some libraries report.

Source: Brier 1950 (Monthly Weather Review 78, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="brier",
    value=None,
    better="lower",
    definition="Mean over samples of the squared error of the probabilities, summed over all classes; 0 is perfect, 2 the worst.",
    source="Brier 1950, sum over classes; bootstrap interval, paired for the change",
)


def sample_brier(predictions: Predictions) -> Float[Tensor, " n"]:
    """sum_k (p_k - [k is the true label])^2 of each sample, in [0, 2]."""
    p = predictions.probabilities
    truth = torch.nn.functional.one_hot(predictions.targets, p.shape[1]).to(p.dtype)
    return ((p - truth) ** 2).sum(dim=1)


@dataclass(frozen=True)
class Brier(Metric):
    """Brier score.

    Args:
        per_scope: also for each class and each group.
        least: fewer samples than this are "not enough data".
    """

    per_scope: bool = False
    least: int = 10

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Brier score of the compressed and the dense model and the paired change."""
        comparison = Comparison(ABOUT, self.least, (0.0, 2.0))
        return comparison.compare(sample_brier, evidence.compressed, evidence.dense, per_scope=self.per_scope)
