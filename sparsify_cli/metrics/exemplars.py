"""Samples whose usual answer changed with compression, how unsure the dense model was about them, and how that compares with all samples.

    exemplars             how many samples changed their usual (modal) answer
    exemplars_uncertain   share of them the dense model was unsure about; the dense number is the same share over all samples (base rate)
    exemplars_lift        the first share divided by the second: above 1, uncertainty of the dense model foretells who is hit

Source: Hooker et al. 2019 (arXiv 1911.05248) for exemplars; their concentration among uncertain samples: Iofinova, Peste, Alistarh 2023
(arXiv 2304.12622). Unsure is our generalisation to several classes: the dense usual answer has mean probability below 0.9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.exemplars import modal_confidence, modal_labels
from sparsify_cli.maths.intervals import Estimate
from sparsify_cli.maths.marked_answers import Marks, by_sample, count, lift, share
from sparsify_cli.values.report import Finding

HOOKER, IOFINOVA = (
    "Hooker et al. 2019",
    "Iofinova et al. 2023; our threshold rule for more than two classes; intervals Wilson 1927, Efron 1979 over samples",
)
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
        n = len(evidence.dense[0])
        changed = by_sample(before != modal_labels(compressed), n)
        unsure = by_sample(modal_confidence(dense, before) < self.below, n)
        return [self._count(changed, evidence), *self._concentration(changed, unsure)]

    def _count(self, changed: Marks, evidence: Evidence) -> Finding:
        n, models = changed.numel(), min(len(evidence.dense), len(evidence.compressed))
        found = count(changed) if n else Estimate(0.0, 0.0, 0.0)
        note = "one model a side: part of this is what retraining alone would change" if models == 1 else ""
        unit = "answers" if evidence.dense[0].has_attributes else "samples"
        return replace(COUNT, value=found.value, n=n, unit=unit, low=found.low, high=found.high, note=note)

    def _concentration(self, changed: Marks, unsure: Marks) -> list[Finding]:
        text = f"Share of exemplars (dense: of all samples) whose dense answer had a probability below {self.below:g}."
        comparison = Comparison(replace(UNCERTAIN, definition=text), self.least)
        among = comparison.finding("compressed", lambda: share(unsure, changed), int(changed.sum()), "all")
        base = comparison.finding("dense", lambda: share(unsure, torch.ones_like(unsure)), unsure.numel(), "all")
        return [among, base, self._lift(changed, unsure, among, base)]

    def _lift(self, changed: Marks, unsure: Marks, among: Finding, base: Finding) -> Finding:
        here = replace(LIFT, n=among.n)
        if among.value is None or base.value is None:
            return replace(here, note=among.note or base.note)
        if not base.value:
            return replace(here, note="undefined: the dense model is unsure about no sample")
        found = lift(unsure, changed)
        return replace(here, value=found.value, low=found.low, high=found.high, note=f"base rate {100 * base.value:.2f} %")
