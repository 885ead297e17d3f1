"""How far each group's accuracy is below that of the best group of its column.

Each model has its own best group. The change says whether a group fell further behind. Where the best group is the same one before and
after, four accuracies reduce to two paired differences on separate samples; otherwise samples are drawn, with both best groups as they are.

Source: the accuracy gap of disaggregated evaluation, Buolamwini and Gebru 2018 (PMLR 81, 77); intervals Newcombe 1998, method 10, with
Tango 1998 for each group's paired change, or Efron 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import estimate, estimate_change, population_mean
from sparsify_cli.maths.intervals import Estimate, independent_difference
from sparsify_cli.maths.resampled_totals import content_order, resampled_totals, with_interval
from sparsify_cli.maths.scopes import columns
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="group_gap",
    value=None,
    unit="fraction",
    better="lower",
    definition="Accuracy of the best group of this column minus the accuracy of this group.",
    source="Buolamwini and Gebru 2018; intervals Newcombe 1998 and, for the change, Tango 1998",
)

Members = dict[str, Bool[Tensor, " n"]]
Correct = Shaped[Tensor, " n"]


@dataclass(frozen=True)
class GroupGap(Metric):
    """Accuracy gap of each group to the best group of its column.

    Args:
        least: groups with fewer samples are "not enough data" and never the best group.
    """

    least: int = 10

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Gap of every group in the compressed and the dense model and the change; nothing when there are no groups."""
        now = population_mean(attrgetter("correct"), evidence.compressed)
        before = population_mean(attrgetter("correct"), evidence.dense) if evidence.dense else None
        found: list[Finding] = []
        for column, members, large in columns(evidence.compressed[0], self.least):
            for value, m in members.items():
                about = replace(ABOUT, scope=f"group:{column}={value}", n=int(m.sum()))
                found += _gaps(about, value, large, now, before) if value in large else [self._too_small(about)]
        return found

    def _too_small(self, about: Finding) -> Finding:
        return replace(about, note=f"not enough data: {about.n} samples, at least {self.least} are needed")


def highest(correct: Correct, members: Members) -> str:
    """The value whose samples have the highest mean; the first in sorted order wins a tie."""
    return max(sorted(members), key=lambda value: float(correct[members[value]].double().mean()))


def _gaps(about: Finding, value: str, members: Members, now: Correct, before: Correct | None) -> list[Finding]:
    compressed = _gap(about, value, members, now)
    if before is None:
        return [compressed]
    dense = replace(_gap(about, value, members, before), of="dense")
    return [compressed, dense, _change(about, value, members, (now, before), (compressed, dense))]


def _gap(about: Finding, value: str, members: Members, correct: Correct) -> Finding:
    best = highest(correct, members)
    if best == value:
        return replace(about, value=0.0, note="this is the best group")
    gap = independent_difference(estimate(correct[members[best]]), estimate(correct[members[value]]))
    return _with(about, Estimate(gap.value, max(gap.low, 0.0), min(gap.high, 1.0)), f"best is {best!r} of {len(members)} groups")


def _change(about: Finding, value: str, members: Members, models: tuple[Correct, Correct], gaps: tuple[Finding, Finding]) -> Finding:
    now, before = models
    here = replace(about, of="change", value=(gaps[0].value or 0.0) - (gaps[1].value or 0.0))
    best, former = highest(now, members), highest(before, members)
    if best != former:
        drawn = _drawn([(now, members[best]), (before, members[former]), (now, members[value]), (before, members[value])])
        return with_interval(replace(here, note=f"the best group was {former!r} and is {best!r} now"), drawn)
    if best == value:
        return replace(here, note="this is the best group")
    changes = (estimate_change(now[members[name]], before[members[name]]) for name in (best, value))
    return _with(here, independent_difference(*changes), f"best is {best!r} of {len(members)} groups")


def _drawn(parts: Sequence[tuple[Correct, Bool[Tensor, " n"]]]) -> Float[Tensor, " resamples"]:
    """The change of the gap in each draw: best now - best before - the group now + the group before, as they come."""
    values = torch.stack([column.double() for correct, group in parts for column in (correct * group, group)], dim=1)
    totals = resampled_totals(values, content_order(values))
    first, second, third, fourth = (totals[:, 2 * i] / totals[:, 2 * i + 1] for i in range(4))
    return first - second - third + fourth


def _with(about: Finding, found: Estimate, note: str) -> Finding:
    return replace(about, value=found.value, low=found.low, high=found.high, note=note)
