"""Samples whose usual answer changed with compression, how unsure the dense model was about them, and how that compares with all samples.

    exemplars             how many samples changed their usual (modal) answer
    exemplars_uncertain   share of them the dense model was unsure about; the dense number is the same share over all samples (base rate)
    exemplars_lift        the first share divided by the second: above 1, uncertainty of the dense model foretells who is hit

Source: Hooker et al. 2019 (arXiv 1911.05248) for exemplars; their concentration among uncertain samples: Iofinova, Peste, Alistarh 2023
(arXiv 2304.12622). Unsure is our generalisation to several classes: the dense usual answer has mean probability below 0.9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.exemplars import modal_confidence, modal_labels
from sparsify_cli.maths.intervals import Estimate, wilson
from sparsify_cli.values.report import Finding

HOOKER, IOFINOVA = "Hooker et al. 2019", "Iofinova et al. 2023; our threshold rule for more than two classes; interval Wilson 1927"
COUNT = Finding(
    name="exemplars",
    value=None,
    unit="samples",
    better="lower",
    definition="Samples whose usual predicted label differs between dense and compressed models.",
    source=HOOKER,
)
UNCERTAIN = Finding(name="exemplars_uncertain", value=None, unit="fraction", source=IOFINOVA)
LIFT = Finding(
    name="exemplars_lift",
    value=None,
    definition="How many times more often the dense model was unsure about exemplars than about all samples.",
    source=IOFINOVA,
)


@dataclass(frozen=True)
class Exemplars(Metric):
    """Compression-identified exemplars.

    Args:
        below: the dense answer is unsure when its mean probability is below this.
        least: shares over fewer exemplars than this are "not enough data".
    """

    below: float = 0.9
    least: int = 10
    needs = frozenset({"dense"})

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Count of exemplars, share the dense model was unsure about, base rate, and lift."""
        dense, compressed = ([one.every_answer() for one in side] for side in (evidence.dense, evidence.compressed))
        before = modal_labels(dense)
        changed = before != modal_labels(compressed)
        unsure = modal_confidence(dense, before) < self.below
        return [self._count(changed, evidence), *self._concentration(changed, unsure)]

    def _count(self, changed: Bool[Tensor, " n"], evidence: Evidence) -> Finding:
        n, models = len(changed), min(len(evidence.dense), len(evidence.compressed))
        interval = wilson(int(changed.sum()), n) if n else Estimate(0.0, 0.0, 0.0)
        note = "one model a side: part of this is what retraining alone would change" if models == 1 else ""
        unit = "answers" if evidence.dense[0].has_attributes else "samples"
        return replace(COUNT, value=float(changed.sum()), n=n, unit=unit, low=n * interval.low, high=n * interval.high, note=note)

    def _concentration(self, changed: Bool[Tensor, " n"], unsure: Bool[Tensor, " n"]) -> list[Finding]:
        text = f"Share of exemplars (dense: of all samples) whose dense answer had a probability below {self.below:g}."
        comparison = Comparison(replace(UNCERTAIN, definition=text), self.least)
        [share] = comparison.findings(unsure[changed])
        [base] = comparison.findings(unsure)
        return [share, replace(base, of="dense"), lift(share, base)]


def lift(share: Finding, base: Finding) -> Finding:
    """Share among exemplars over base rate; its interval is that of the share, the base rate taken as known."""
    here = replace(LIFT, n=share.n)
    if share.value is None or base.value is None:
        return replace(here, note=share.note or base.note)
    if not base.value:
        return replace(here, note="undefined: the dense model is unsure about no sample")
    low, high = ((end or 0.0) / base.value for end in (share.low, share.high))
    return replace(here, value=share.value / base.value, low=low, high=high, note=f"base rate {base.value:.4f}, taken as known")
