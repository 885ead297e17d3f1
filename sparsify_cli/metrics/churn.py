"""Share of samples whose predicted label differs from the dense model's, rightly or wrongly.

Two models of equal accuracy can disagree on many samples. With several models a side it is the mean over all pairs of one dense and one
compressed model; with two or more dense models their disagreement among themselves is reported as the dense number: churn
that retraining alone causes.

Source: Milani Fard, Cormier, Canini, Gupta 2016 (NeurIPS), "Launch and iterate: reducing prediction churn".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from jaxtyping import Shaped
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison, seeds_note
from sparsify_cli.maths.scopes import parts
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="churn",
    value=None,
    unit="fraction",
    better="lower",
    definition="Share of samples whose predicted label differs from the dense model's.",
    source="Milani Fard et al. 2016; interval Wilson 1927",
)

Pairs = Sequence[tuple[Predictions, Predictions]]


@dataclass(frozen=True)
class Churn(Metric):
    """Share of changed answers.

    Args:
        per_scope: also for each class and each group.
        least: fewer samples than this are "not enough data".
    """

    per_scope: bool = False
    least: int = 10
    needs = frozenset({"dense"})

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Disagreement between compressed and dense models and, with several, among the dense models."""
        comparison = Comparison(replace(ABOUT, note=seeds_note(evidence.compressed, evidence.dense)), self.least, (0.0, 1.0), share=True)
        now = disagreement(list(product(evidence.dense, evidence.compressed)))
        found = comparison.findings(now)
        for scope, members in parts(evidence.compressed[0]) if self.per_scope else ():
            found += comparison.findings(now[members], scope=scope)
        among = list(combinations(evidence.dense, 2))
        retrained = comparison.findings(disagreement(among)) if among else []
        return found + [replace(finding, of="dense") for finding in retrained]


def disagreement(pairs: Pairs) -> Shaped[Tensor, " n"]:
    """Share of pairs that disagree on each sample; bool for one pair. Of attributes the share that differs."""
    differ = torch.stack([first.labels != second.labels for first, second in pairs])
    differ = differ.double().mean(dim=2) if differ.ndim == 3 else differ
    return differ[0] if len(pairs) == 1 else differ.double().mean(dim=0)
