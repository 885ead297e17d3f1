"""Accuracy when the samples that the compressed model is least sure of are answered by the dense one.

The rest keeps the small model's speed: a routed sample costs both. Of a share of 10 % that is the number; the page shows it for shares
from 2 to 50 %, and `routing_share` is the least share from which on accuracy is within 0.1 points of the dense model's. Confidence is the
probability of the predicted label; of several attributes that of the least sure one. The cut is a confidence of these samples, so the
number is a little better than on others; with hundreds of samples that is far below its interval. With several models it is the mean over
all pairs of a compressed and a dense one.

Source: Chow 1970 (IEEE Trans. Information Theory 16, 41), rejection by confidence; to the dense model after Iofinova et al. 2023,
section on countermeasures; bootstrap, paired for the change against the dense model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison, population_mean, seeds_note
from sparsify_cli.maths.resampling import resampled_findings
from sparsify_cli.maths.routing import below, least_share, routed
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="routing",
    value=None,
    unit="fraction",
    better="higher",
    source="Chow 1970; bootstrap, paired for the change",
)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Of samples that go to the dense model."""
NEAR = 0.001
"""Accuracy below the dense model's that counts as its own."""


@dataclass(frozen=True)
class Routing(Metric):
    """Accuracy with the dense model's help.

    Args:
        share: of samples that go to it, of the number about all.
        least: fewer samples than this are "not enough data".
    """

    share: float = 0.1
    least: int = 10
    needs = frozenset({"dense"})
    each_attribute = False  # a sample is sent as a whole

    def measure(self, evidence: Evidence) -> list[Finding]:
        """With the share about all samples, then for each share of the curve, then the share that is needed."""
        pairs = list(product(evidence.compressed, evidence.dense))
        note = seeds_note(evidence.compressed, evidence.dense)
        dense = population_mean(right, evidence.dense)
        found = self._at(self.share, pairs, dense, "all", note)
        for share in SHARES if len(dense) >= self.least else ():
            found += self._at(share, pairs, dense, f"routed:{share:g}", note)
        return [*found, self._needed(pairs, note)]

    def _at(self, share: float, pairs: Pairs, dense: Float[Tensor, " n"], scope: str, note: str) -> list[Finding]:
        text = f"Accuracy when the {100 * share:g} % of samples the model is least sure of are answered by the dense model."
        cut = sum(below(sureness(now), share) for now, _ in pairs) / len(pairs)
        where = f"confidence below {100 * cut:.1f} %"
        about = replace(ABOUT, definition=text, note="; ".join(filter(None, (where, note))))
        return resampled_findings(Comparison(about, self.least, (0.0, 1.0)), together(pairs, share), dense, scope=scope)

    def _needed(self, pairs: Pairs, note: str) -> Finding:
        text = "Least share of samples, those the model is least sure of, from which on accuracy is within 0.1 points of the dense model's."
        about = replace(ABOUT, name="routing_share", better="lower", definition=text, n=len(pairs[0][0]), note=note)
        if about.n < self.least:
            return replace(about, note=f"not enough data: {about.n} samples, at least {self.least} are needed")
        each = [least_share(sureness(now), right(now), right(other), aim=float(right(other).mean()) - NEAR) for now, other in pairs]
        return replace(about, value=sum(one or 0.0 for one in each) / len(each))


Pairs = Sequence[tuple[Predictions, Predictions]]
"""A compressed model, and the dense one that helps it."""


def together(pairs: Pairs, share: float) -> Float[Tensor, " n"]:
    """How much of each sample both together answer rightly, mean over pairs."""
    each = [right(now) + routed(sureness(now), share) * (right(other) - right(now)) for now, other in pairs]
    return torch.stack(each).mean(dim=0)


def right(predictions: Predictions) -> Float[Tensor, " n"]:
    """Where the predicted label is the true one; of attributes the share that is right."""
    return predictions.correct.double()


def sureness(predictions: Predictions) -> Float[Tensor, " n"]:
    """Probability of the predicted label; of attributes the least over them."""
    chances = predictions.probabilities
    return torch.maximum(chances, 1 - chances).amin(dim=1) if predictions.has_attributes else chances.amax(dim=1)
