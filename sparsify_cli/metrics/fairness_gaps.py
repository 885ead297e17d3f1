"""How differently the groups of a column are treated: the widest gap between any two of them in the rates that fairness criteria compare.

    demographic parity  the same share of every group is answered with yes                  gap in P(s = 1)
    equal opportunity   of those who are a yes, the same share of every group is found      gap in P(s = 1 | y = 1)
    equalised odds      that, and the same share of the others is wrongly called a yes      wider of that gap and that in P(s = 1 | y = 0)

Each is the highest rate of a group minus the lowest, 0 = no difference. For two classes yes is the second one. With several
attributes it is the mean of their gaps, the widest one named; with several classes "is it this class?" is asked for each, and it is
again the mean: that is ours. A gap that some of the questions do not have, because fewer than two groups have enough samples, is
left out of the mean. Several models answer with the share of them that says yes, so it is the gap of their average, and opposite
gaps cancel. Which criterion matters is a decision about the task: equal selection is wrong to ask for where the groups truly
differ.

The gap of several groups is never 0 on few samples; its note says what groups without any difference would show, and where the
measured one could be theirs, the interval reaches down to 0. Simulated with groups of 30 and 100 samples it holds the truth in 93
to 98 of 100 cases for two groups and 82 to 96 for five and ten, least where one of ten stands out: the widest of many gaps looks
wider than it is. Columns are also compared two at a time (scope `group:<a>&<b>`), because a model can be fair to each and not to
both together.

Source: Hardt, Price, Srebro 2016 (arXiv 1610.02413), equal opportunity and equalised odds; differences between groups, worst case,
as fairlearn's demographic_parity_difference, equal_opportunity_difference, equalized_odds_difference, to which the tests compare
them. Contributions to first order, and the level of groups without difference, are ours (maths/group_rates.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison, seeds_note
from sparsify_cli.maths.group_columns import Grouping, by_column, by_two_columns
from sparsify_cli.maths.group_rates import Chosen, blocks, chance_gap, chosen, questions, widest
from sparsify_cli.maths.resampling import resampled_findings
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding


class Criterion(NamedTuple):
    """Name of a finding, the rates whose gap it is, and what it says."""

    name: str
    rates: tuple[str, ...]
    definition: str


CRITERIA = (
    Criterion("demographic_parity", ("selection",), "Highest minus lowest share of answers yes among the groups of this column."),
    Criterion("equal_opportunity", ("tpr",), "Highest minus lowest true positive rate among the groups of this column."),
    Criterion("equalised_odds", ("tpr", "fpr"), "Wider of the gaps in true and in false positive rate among the groups of this column."),
)
ABOUT = Finding(
    name="fairness_gaps",
    value=None,
    unit="fraction",
    better="lower",
    source="Hardt et al. 2016, as in fairlearn; bootstrap of linearised contributions, paired for the change",
)


@dataclass(frozen=True)
class FairnessGaps(Metric):
    """Gaps between groups in selection and error rates.

    Args:
        least: groups, and rates, of fewer samples are left out and named.
        pairs: at most so many pairs of columns are compared, in sorted order; 0 = none.
    """

    least: int = 10
    pairs: int = 10

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Three gaps a column and pair of columns, of the compressed and the dense model and their change; nothing without groups."""
        first = evidence.compressed[0]
        alone = [finding for groups in by_column(first, self.least) for finding in self._findings(evidence, groups)]
        pairs = by_two_columns(first, self.least, self.pairs)
        together = [finding for groups in pairs for finding in self._findings(evidence, groups)]
        all_pairs = math.comb(len(first.groups), 2)
        cut = f"{self.pairs} of {all_pairs} pairs of columns are compared" if all_pairs > self.pairs else ""
        return alone + [replace(f, note="; ".join(part for part in (f.note, cut) if part)) for f in together]

    def _findings(self, evidence: Evidence, groups: Grouping) -> Iterator[Finding]:
        seeds, sides = seeds_note(evidence.compressed, evidence.dense), [side for side in (evidence.compressed, evidence.dense) if side]
        outside = "; ".join(part for part in (groups.left_out(), seeds) if part)
        gaps = self._gaps(sides, groups) if len(groups.names) > 1 else [[] for _ in CRITERIA]
        for criterion, found in zip(CRITERIA, gaps, strict=True):
            about = replace(ABOUT, name=f"{ABOUT.name}_{criterion.name}", definition=criterion.definition, scope=groups.scope)
            if not found or not any(gap.defined for gap in found):
                yield replace(about, note=self._too_few(groups))
                continue
            for finding in resampled_findings(Comparison(about, 1, (0.0, 1.0)), *(gap.each for gap in found), scope=groups.scope):
                said = Telling(questions(sides[0][0]), sides[0][0], groups).about(finding, found)
                yield replace(said, note="; ".join(part for part in (said.note, outside) if part))

    def _gaps(self, sides: Sequence[Sequence[Predictions]], groups: Grouping) -> list[list[Gap]]:
        """For each criterion the gap of each side."""
        found: list[list[list[Chosen]]] = [[[] for _ in sides] for _ in CRITERIA]
        for truth, said in blocks(sides, groups.rows):
            for criterion, by_side in zip(CRITERIA, found, strict=True):
                for side, answers in zip(by_side, said, strict=True):
                    args = {"groups": len(groups.names), "least": self.least}
                    side.append(chosen(criterion.rates, widest, truth, answers, groups.codes, **args))
        return [[Gap.of(side) for side in by_side] for by_side in found]

    def _too_few(self, groups: Grouping) -> str:
        left = f"; {groups.left_out()}" if groups.small else ""
        return f"not enough data: fewer than two groups have {self.least} samples to compare{left}"


@dataclass(frozen=True, eq=False)
class Gap:
    """The gap of one side, over all questions.

    Args:
        values: of each question; NaN where undefined.
        each: one number a sample; their mean is the mean of the defined values.
        ends: the groups with the highest and the lowest rate, by question.
        n: samples it rests on.
        chance: (mean, 95 % quantile) of what groups without difference would show.
    """

    values: Float[Tensor, " questions"]
    each: Float[Tensor, " n"]
    ends: tuple[list[int], list[int]]
    n: int
    chance: tuple[float, float]

    @classmethod
    def of(cls, parts: Sequence[Chosen]) -> Gap:
        """Put together what was measured some questions at a time."""
        values, weights = torch.cat([part.values for part in parts]), torch.cat([part.weights for part in parts], dim=1)
        there = ~values.isnan()
        each = torch.stack([part.each for part in parts]).sum(dim=0) / max(int(there.sum()), 1)
        n = int(torch.stack([part.counted for part in parts]).any(dim=0).sum())
        level = torch.cat([chance_gap(part) for part in parts], dim=1)[:, there].mean(dim=1)
        ends = weights.argmax(dim=0).tolist(), weights.argmin(dim=0).tolist()
        return cls(values, each, ends, n, (float(level[0]), float(level[1])))

    @property
    def defined(self) -> bool:
        """True where some question has a gap."""
        return not bool(self.values.isnan().all())


@dataclass(frozen=True, eq=False)
class Telling:
    """Says beside a number what it rests on.

    Args:
        names: of the questions.
        predictions: of any model, for what the questions are about.
        groups: that are compared.
    """

    names: tuple[str, ...]
    predictions: Predictions
    groups: Grouping

    def about(self, finding: Finding, gaps: Sequence[Gap]) -> Finding:
        """The finding with its n, a note, and the interval opened to 0 where groups without difference could show as much."""
        if finding.of == "change":
            return self._noted(finding, gaps[0], self._change(*gaps))
        gap = gaps[0 if finding.of == "compressed" else 1]
        usual, most = gap.chance
        low = 0.0 if finding.low is not None and finding.value is not None and finding.value <= most else finding.low
        note = f"{self._widest(gap)}; groups without any difference would show about {100 * usual:.1f} % on this many samples"
        return self._noted(replace(finding, low=low), gap, note)

    def _noted(self, finding: Finding, gap: Gap, note: str) -> Finding:
        missing = int(gap.values.isnan().sum())
        without = f"{missing} of {len(self.names)} {self._noun} left out: too few samples" if missing else ""
        return replace(finding, n=gap.n, note="; ".join(part for part in (note, without, finding.note) if part))

    @property
    def _noun(self) -> str:
        return "attributes" if self.predictions.has_attributes else "classes"

    def _pair(self, gap: Gap, question: int) -> str:
        return f"{self.groups.names[gap.ends[0][question]]!r} above {self.groups.names[gap.ends[1][question]]!r}"

    def _widest(self, gap: Gap) -> str:
        if len(self.names) == 1:
            return f"of {self.names[0]!r}: {self._pair(gap, 0)}"
        at = int(gap.values.nan_to_num(-1).argmax())
        return f"mean over {self._noun}, widest for {self.names[at]!r} ({100 * float(gap.values[at]):.1f} %, {self._pair(gap, at)})"

    def _change(self, now: Gap, before: Gap) -> str:
        if len(self.names) == 1:
            same = now.ends == before.ends
            return f"of {self.names[0]!r}: " + (
                "between the same groups" if same else f"was {self._pair(before, 0)}, is {self._pair(now, 0)}"
            )
        grown = (now.values - before.values).nan_to_num(-2)
        at = int(grown.argmax())
        return f"mean over {self._noun}, grew most for {self.names[at]!r} ({100 * float(grown[at]):+.1f} points)"
