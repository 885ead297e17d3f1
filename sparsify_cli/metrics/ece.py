"""Expected calibration error: how far the stated confidence is from the accuracy, on average over confidence bins.

Confidence is the probability of the predicted label. The number is never 0 on few samples, so its note says what a perfectly
calibrated model would show; where the measured one could be that model's, the interval reaches down to 0. Simulated with 300 and
2000 samples and true errors of 0 to 0.1 it holds the truth in 89 to 97 of 100 cases.

Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599), equation 3. The code of Iofinova et al. 2023 has an eleventh bin
for p = 1 exactly and uses the probability of an attribute; ours puts p = 1 in the last bin and uses the predicted label's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.calibration_error import calibrated_level, equal_mass, equal_width, gap_contributions
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="ece",
    value=None,
    unit="fraction",
    better="lower",
    source="Naeini et al. 2015; Guo et al. 2017, equation 3; bootstrap of the signed gaps, paired for the change",
)
BINNINGS = {"equal-width": equal_width, "equal-mass": equal_mass}


@dataclass(frozen=True)
class ECE(Metric):
    """Expected calibration error.

    Args:
        bins: how many.
        binning: `equal-width` over [0, 1], or `equal-mass` with about as many samples a bin.
        least: fewer samples than this are "not enough data".
    """

    bins: int = 10
    binning: Literal["equal-width", "equal-mass"] = "equal-width"
    least: int = 10

    def contributions(self, predictions: Predictions) -> Float[Tensor, " n"]:
        """One number a sample; their mean is the ECE."""
        confidence = predictions.probabilities.amax(dim=1)
        return gap_contributions(confidence, predictions.correct, BINNINGS[self.binning](confidence, self.bins))

    def measure(self, evidence: Evidence) -> list[Finding]:
        """ECE of the compressed and the dense model and the paired change; over bins of equal mass as well, under a name of its own."""
        even = replace(self, binning="equal-mass")._measured(evidence) if self.binning == "equal-width" else []
        return [*self._measured(evidence), *(replace(finding, name="ece_equal_mass") for finding in even)]

    def _measured(self, evidence: Evidence) -> list[Finding]:
        text = f"Mean gap between stated confidence and accuracy over {self.bins} {self.binning} bins of confidence."
        about = replace(ABOUT, definition=text)
        found = Comparison(about, self.least, (0.0, 1.0)).compare(self.contributions, evidence.compressed, evidence.dense)
        populations = {"compressed": evidence.compressed, "dense": evidence.dense, "change": ()}
        return [self._beside_perfect(finding, populations[finding.of]) for finding in found]

    def _beside_perfect(self, finding: Finding, population: Sequence[Predictions]) -> Finding:
        """Say what perfect calibration would show, and open the interval to 0 where the number does not exceed it."""
        if finding.value is None or not population:
            return finding
        levels = [self._level(p) for p in population]
        usual, most = (sum(level[i] for level in levels) / len(levels) for i in (0, 1))
        note = f"a perfectly calibrated model would show about {100 * usual:.2f} % on this many samples"
        low = 0.0 if finding.value <= most else finding.low
        return replace(finding, low=low, note="; ".join(part for part in (note, finding.note) if part))

    def _level(self, predictions: Predictions) -> tuple[float, float]:
        """What a perfectly calibrated model would usually and at most show; of attributes the mean over them."""
        views = [predictions.of_attribute(i) for i in range(len(predictions.attributes))] or [predictions]
        confidences = [view.probabilities.amax(dim=1) for view in views]
        levels = [calibrated_level(c, BINNINGS[self.binning](c, self.bins)) for c in confidences]
        usual, most = (sum(level[i] for level in levels) / len(levels) for i in (0, 1))
        return usual, most
