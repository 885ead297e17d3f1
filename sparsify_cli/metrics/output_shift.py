"""How far predicted numbers moved from the dense model's, relative to the size of its own.

0 = the same numbers; 100 % = as far away as 0 would be. It needs no truth, so it tells what compression did where accuracy cannot.

Source: standard (relative root mean square difference); intervals over samples by linearisation (maths/ratios.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.ratios import ROOT, against_dense
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="output_shift",
    value=None,
    unit="fraction",
    better="lower",
    definition="Root mean square difference from the dense model's numbers, relative to their own root mean square.",
    source="standard; bootstrap over samples",
)


@dataclass(frozen=True)
class OutputShift(Metric):
    """Relative change of numbers.

    Args:
        least: fewer samples than this are "not enough data".
    """

    least: int = 10
    needs = frozenset({"dense"})
    kinds = frozenset(("numbers",))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Of all samples and each group; with several models the mean over pairs of one dense and one compressed."""
        return against_dense(Comparison(ABOUT, self.least, (0.0, float("inf"))), moved, evidence.sides, ROOT)


def moved(dense: Positions, now: Positions) -> tuple[Tensor, Tensor]:
    """Squared differences, and squares of the dense model's numbers, of each sample."""
    before = dense.answers.double()
    return now.total((now.answers.double() - before).square()), now.total(before.square())
