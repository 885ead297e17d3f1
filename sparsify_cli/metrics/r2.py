"""Share of the truth's variance that predictions explain: 1 less squared error over squared distance from the truth's mean.

1 is perfect, 0 is no better than the mean as the only answer, below 0 worse. Each position of a sample has its own mean, that of
the samples it is about (all, or a group); with a single position this is the usual coefficient of determination.

Source: Wright 1921 (J. Agricultural Research 20, 557); intervals over samples by linearisation (maths/ratios.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import Shape, compared
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="r2",
    value=None,
    unit="fraction",
    better="higher",
    definition="Share of the truth's variance that predictions explain; 0 is no better than its mean.",
    source="Wright 1921; bootstrap over samples, paired for the change",
)
REST = Shape(lambda r: 1 - r, lambda _: -1.0)


def unexplained(positions: Positions) -> tuple[Tensor, Tensor]:
    """Squared errors, and squared distances of the truth from its mean, of each sample."""
    truth = positions.targets.double()
    return positions.total(positions.losses), positions.total((truth - truth.mean(dim=0)).square())


@dataclass(frozen=True)
class R2(Metric):
    """Explained variance.

    Args:
        least: fewer samples than this are "not enough data".
    """

    least: int = 10
    kinds = frozenset(("numbers",))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Of all samples and each group: the compressed and the dense model and the change; nothing where the truth does not vary."""
        return compared(Comparison(ABOUT, self.least, (float("-inf"), 1.0)), unexplained, evidence.sides, REST)
