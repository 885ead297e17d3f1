"""Share of tokens at which the likeliest guess is the dense model's, right or wrong.

What a reader would notice: perplexity may stay while other words are chosen. Of each place with the dense model's context, not its own.

Source: churn of Milani Fard, Cormier, Canini, Gupta 2016 (NeurIPS), token by token; intervals over texts (maths/ratios.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import against_dense
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="token_agreement",
    value=None,
    unit="fraction",
    better="higher",
    definition="Share of tokens at which the likeliest guess is the dense model's.",
    source="after Milani Fard et al. 2016; bootstrap over texts",
)


@dataclass(frozen=True)
class TokenAgreement(Metric):
    """Agreement with the dense model.

    Args:
        least: fewer texts than this are "not enough data".
    """

    least: int = 10
    needs = frozenset({"dense"})
    kinds = frozenset(("tokens",))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Of all texts and each group; with several models the mean over pairs of one dense and one compressed."""
        return against_dense(Comparison(ABOUT, self.least, (0.0, 1.0)), agreeing, evidence.sides)


def agreeing(dense: Positions, now: Positions) -> tuple[Tensor, Tensor]:
    """Tokens at which both guess alike, and tokens, of each text."""
    return now.total(now.answers == dense.answers), now.counts
