"""Share of samples whose predicted label is the true one, over all samples and for each class and group; of tokens in texts.

Source: standard; 95 % intervals after Wilson 1927 and, for the change on the same samples, Tango 1998 (see maths/intervals.py). Texts
are drawn as wholes (see maths/ratios.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import compared
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="accuracy",
    value=None,
    unit="fraction",
    better="higher",
    definition="Share of samples whose predicted label is the true one.",
    source="standard; intervals Wilson 1927, paired change Tango 1998",
)


OF_TOKENS = replace(
    ABOUT, definition="Share of tokens that the model held for the likeliest where they stand.", source="standard; bootstrap over texts"
)


def right_tokens(positions: Positions) -> tuple[Tensor, Tensor]:
    """Tokens guessed right, and tokens, of each text."""
    return positions.total(positions.answers == positions.targets), positions.counts


def correct(predictions: Predictions) -> Bool[Tensor, " n"]:
    """True where the predicted label is the true one."""
    return predictions.correct


@dataclass(frozen=True)
class Accuracy(Metric):
    """Share of correct answers.

    Args:
        per_scope: also for each class and each group.
        least: fewer samples than this are "not enough data".
    """

    per_scope: bool = True
    least: int = 10
    kinds = frozenset(("classes", "attributes", "tokens"))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Accuracy of the compressed and the dense model and the paired change."""
        if evidence.positions:
            return compared(Comparison(OF_TOKENS, self.least, (0.0, 1.0)), right_tokens, evidence.sides)
        comparison = Comparison(ABOUT, self.least, (0.0, 1.0), share=True)
        return comparison.compare(correct, evidence.compressed, evidence.dense, per_scope=self.per_scope)
