"""Perplexity: among how many equally likely tokens the model seems to choose at each place; e to the mean loss of a token.

1 = every token foreseen; the size of the vocabulary = a uniform guess. Over all tokens of all texts, not a mean over texts, and per token:
models with other vocabularies cannot be compared by it.

Source: Jelinek, Mercer, Bahl, Baker 1977 (J. Acoust. Soc. Am. 62, S63); intervals over texts by linearisation (maths/ratios.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import EXPONENTIAL, compared, losses
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="perplexity",
    value=None,
    unit="",
    better="lower",
    definition="Among how many equally likely tokens the model seems to choose at each place: e to the mean loss of a token.",
    source="Jelinek et al. 1977; bootstrap over texts, paired for the change",
)


@dataclass(frozen=True)
class Perplexity(Metric):
    """Perplexity of texts.

    Args:
        least: fewer texts than this are "not enough data".
    """

    least: int = 10
    kinds = frozenset(("tokens",))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Of all texts and each group: the compressed and the dense model and the change."""
        return compared(Comparison(ABOUT, self.least, (1.0, float("inf"))), losses, evidence.sides, EXPONENTIAL)
