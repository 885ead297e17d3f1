"""How much more or less sure the model has become: of its own answer, and of the true one.

    confidence_shift         mean probability of the predicted label; the change is how much surer the model sounds
    confidence_shift_true    mean probability of the true label; the change is how much more it believes the truth

Read together: a model that sounds surer and believes the truth less has become overconfident; one that loses both has become vague.
Sounding surer is neither good nor bad by itself. Each model's label is its own, so the first compares the confidence of answers
that may differ.

Source: ours, as a metric of compression; means of probabilities are standard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="confidence_shift",
    value=None,
    unit="fraction",
    definition="Mean probability of the predicted label; its change says how much surer the model sounds.",
    source="ours; bootstrap, paired for the change",
)
ABOUT_TRUE = replace(
    ABOUT,
    name="confidence_shift_true",
    better="higher",
    definition="Mean probability of the true label; its change says how much more the model believes the truth.",
)


@dataclass(frozen=True)
class ConfidenceShift(Metric):
    """Change of confidence.

    Args:
        per_scope: also for each class and each group.
        least: fewer samples than this are "not enough data".
    """

    per_scope: bool = False
    least: int = 10
    needs = frozenset({"dense"})

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Both confidences of the compressed and the dense model and their paired change."""
        sides = (evidence.compressed, evidence.dense)
        found = Comparison(ABOUT, self.least, (0.0, 1.0)).compare(of_the_answer, *sides, per_scope=self.per_scope)
        return found + Comparison(ABOUT_TRUE, self.least, (0.0, 1.0)).compare(of_the_truth, *sides, per_scope=self.per_scope)


def of_the_answer(predictions: Predictions) -> Float[Tensor, " n"]:
    """Probability of the predicted label of each sample."""
    return predictions.probabilities.amax(dim=1)


def of_the_truth(predictions: Predictions) -> Float[Tensor, " n"]:
    """Probability of the true label of each sample."""
    return torch.take_along_dim(predictions.probabilities, predictions.targets[:, None], dim=1)[:, 0]
