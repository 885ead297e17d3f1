"""Accuracy on the 80 % of samples that the model is most confident about: what is left when the doubtful fifth goes to a person.

Confidence is the probability of the predicted label. Where the cut falls among equally confident samples each of them counts in
part, so their order does not matter. n is how many samples are answered. Compressed and dense model each keep the samples they are
surest about, which need not be the same ones; the change is still paired sample by sample.

Source: Geifman and El-Yaniv 2017 (arXiv 1705.08500), selective classification at a fixed coverage; 80 % is our choice; the interval
resamples contributions to first order, which are ours (maths/risk_coverage.py); simulated with 200 and 1000 samples it holds the
truth in 94 to 96 of 100 cases, with 60 in 87 to 95, fewer where almost every answer is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison, over_attributes, population_mean, seeds_note
from sparsify_cli.maths.resampling import resampled_findings
from sparsify_cli.maths.risk_coverage import answered, selective_contributions
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="selective_accuracy",
    value=None,
    unit="fraction",
    better="higher",
    source="Geifman and El-Yaniv 2017; bootstrap of linearised contributions, paired for the change",
)


@dataclass(frozen=True)
class SelectiveAccuracy(Metric):
    """Accuracy where the model is most confident.

    Args:
        coverage: share of the samples that is answered.
        least: fewer samples than this are "not enough data".
    """

    coverage: float = 0.8
    least: int = 10

    def contributions(self, predictions: Predictions) -> Float[Tensor, " n"]:
        """One number a sample; their mean is the accuracy on the most confident samples."""
        return selective_contributions(predictions.probabilities.amax(dim=1), predictions.correct, self.coverage)

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Selective accuracy of the compressed and the dense model and the paired change."""
        text = f"Accuracy on the {100 * self.coverage:g} % of samples whose predicted label has the highest probability."
        about = replace(ABOUT, definition=text, note=seeds_note(evidence.compressed, evidence.dense))
        each = over_attributes(self.contributions)
        now, before = (population_mean(each, side) if side else None for side in (evidence.compressed, evidence.dense))
        assert now is not None
        found = resampled_findings(Comparison(about, self.least, (0.0, 1.0)), now, before)
        return [replace(f, n=answered(f.n, self.coverage)) if f.value is not None else f for f in found]
