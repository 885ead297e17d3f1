"""Area under the ROC curve, one class against the rest, mean over classes.

The chance that a sample of the class gets a higher probability for it than a sample of another class; 0.5 = guessing. It looks at
the ranking only: a model can keep its AUC and lose its calibration.

Source: Hanley and McNeil 1982; macro one-vs-rest as scikit-learn's roc_auc_score, to which the tests compare it; interval from the
structural components of DeLong et al. 1988, resampled (maths/ranking.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison, population_mean, seeds_note
from sparsify_cli.maths.ranking import macro_auc_contributions
from sparsify_cli.maths.scopes import class_names
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="auc",
    value=None,
    unit="fraction",
    better="higher",
    definition="Chance that a sample of a class gets a higher probability for it than a sample of another class, mean over classes.",
    source="Hanley and McNeil 1982, macro one-vs-rest; interval from DeLong et al. 1988 components, paired for the change",
)


def contributions(predictions: Predictions) -> Float[Tensor, " n"]:
    """One number a sample; their mean is the macro AUC."""
    return macro_auc_contributions(predictions.probabilities, predictions.targets)


@dataclass(frozen=True)
class AUC(Metric):
    """Area under the ROC curve, macro one-vs-rest.

    Args:
        least: fewer samples than this are "not enough data".
    """

    least: int = 10

    def measure(self, evidence: Evidence) -> list[Finding]:
        """AUC of the compressed and the dense model and the paired change; undefined when a class has no sample."""
        if evidence.compressed[0].has_attributes:
            return self._of_attributes(evidence)
        if evidence.compressed[0].logits.shape[1] < 2:
            return [replace(ABOUT, n=len(evidence.compressed[0]), note="undefined: there is one class only")]
        missing = absent_classes(evidence.compressed[0])
        if missing:
            return [replace(ABOUT, n=len(evidence.compressed[0]), note=f"undefined: no sample of class {', '.join(missing)}")]
        found = Comparison(ABOUT, self.least, (0.0, 1.0)).compare(contributions, evidence.compressed, evidence.dense)
        return [without_empty_interval(finding) for finding in found]

    def _of_attributes(self, evidence: Evidence) -> list[Finding]:
        """The mean over the attributes that some samples have and others have not."""
        first = evidence.compressed[0]
        there = [i for i in range(len(first.attributes)) if not absent_classes(first.of_attribute(i))]
        left = [name for i, name in enumerate(first.attributes) if i not in there]
        if not there:
            return [replace(ABOUT, n=len(first), note="undefined: every attribute has one value only")]

        def some(predictions: Predictions) -> Float[Tensor, " n"]:
            return torch.stack([contributions(predictions.of_attribute(i)) for i in there]).mean(dim=0)

        now, before = (population_mean(some, side) if side else None for side in (evidence.compressed, evidence.dense))
        assert now is not None
        note = f"without {', '.join(left)}, which no sample or every sample has" if left else ""
        found = Comparison(ABOUT, self.least, (0.0, 1.0)).findings(now, before)
        return [without_empty_interval(replace(f, note=note or seeds_note(evidence.compressed, evidence.dense))) for f in found]


def absent_classes(predictions: Predictions) -> list[str]:
    """Names of the outputs that no sample has as its true label."""
    counts = torch.bincount(predictions.targets, minlength=predictions.logits.shape[1]).tolist()
    return [name for name, count in zip(class_names(predictions), counts, strict=True) if not count]


def without_empty_interval(finding: Finding) -> Finding:
    """An interval without width claims certainty; it only means that no pair is misranked (or none changed place)."""
    if finding.value is None or finding.low != finding.high:
        return finding
    return replace(finding, low=None, high=None, note="no spread between samples, so no interval can be estimated")
