"""Share of samples the model is unsure about: the predicted label has a probability below 0.9.

Neither direction is good by itself: a compressed model can be less sure and right to be, or surer and wrong. Read it beside the
calibration error; the paper found that it grows with sparsity before accuracy falls, and bias with it.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622), uncertainty of a binary attribute: share of samples with |p - 0.5| < 0.4,
which is exactly "the likelier answer has probability below 0.9". With more than two classes the rule on the predicted label
is our generalisation: the paper does not define it, and for many classes 0.9 is a stricter demand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="uncertainty",
    value=None,
    unit="fraction",
    source="Iofinova et al. 2023 for two classes; our generalisation for more; intervals Wilson 1927, Tango 1998",
)


@dataclass(frozen=True)
class Uncertainty(Metric):
    """Share of unsure answers.

    Args:
        below: an answer is unsure when its probability is below this.
        per_scope: also for each class and each group.
        least: fewer samples than this are "not enough data".
    """

    below: float = 0.9
    per_scope: bool = False
    least: int = 10

    def unsure(self, predictions: Predictions) -> Bool[Tensor, " n"]:
        """True where the predicted label has a probability below the threshold."""
        return predictions.probabilities.amax(dim=1) < self.below

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Share of unsure answers of the compressed and the dense model and the paired change."""
        about = replace(ABOUT, definition=f"Share of samples whose predicted label has a probability below {self.below:g}.")
        comparison = Comparison(about, self.least, (0.0, 1.0), share=True)
        return comparison.compare(self.unsure, evidence.compressed, evidence.dense, per_scope=self.per_scope)
