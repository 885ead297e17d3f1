"""Negative log-likelihood: how unlikely the model found the true labels, in nats, mean over samples.

0 = certain and right everywhere; ln(classes) = a uniform guess; one confident mistake can outweigh hundreds of good answers. Of texts
it is the mean over tokens.

Source: standard (cross-entropy); a proper score, Gneiting and Raftery 2007 (JASA 102, 359).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import compared, losses
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="nll",
    value=None,
    unit="nats",
    better="lower",
    definition="Mean of -ln(probability the model gave the true label); 0 is perfect.",
    source="standard; proper score, Gneiting and Raftery 2007; bootstrap interval, paired for the change",
)


OF_TOKENS = replace(
    ABOUT,
    definition="Mean over tokens of -ln(probability the model gave the true one); 0 is perfect.",
    source="standard; proper score, Gneiting and Raftery 2007; bootstrap over texts, paired for the change",
)


def sample_nll(predictions: Predictions) -> Float[Tensor, " n"]:
    """-ln p(true label) of each sample, nats; from the logits, so that a probability that rounds to 0 stays finite."""
    log_p = torch.log_softmax(predictions.logits.double(), dim=1)
    return -log_p.gather(1, predictions.targets[:, None])[:, 0]


@dataclass(frozen=True)
class NLL(Metric):
    """Negative log-likelihood.

    Args:
        per_scope: also for each class and each group.
        least: fewer samples than this are "not enough data".
    """

    per_scope: bool = False
    least: int = 10
    kinds = frozenset(("classes", "attributes", "tokens"))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Mean NLL of the compressed and the dense model and the paired change."""
        if evidence.positions:
            return compared(Comparison(OF_TOKENS, self.least, (0.0, float("inf"))), losses, evidence.sides)
        comparison = Comparison(ABOUT, self.least, (0.0, float("inf")))
        return comparison.compare(sample_nll, evidence.compressed, evidence.dense, per_scope=self.per_scope)
