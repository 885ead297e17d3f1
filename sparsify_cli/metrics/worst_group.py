"""Accuracy of the group that fares worst, for each group column.

The change compares the worst group before with the worst group after; when that is another group, two different sets of samples
are compared and the interval is the one for independent samples.

Source: Sagawa, Koh, Hashimoto, Liang 2020 (arXiv 1911.08731), worst-group accuracy; intervals Wilson 1927, Tango 1998, Newcombe 1998.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter

from jaxtyping import Bool, Shaped
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import estimate, estimate_change, population_mean, seeds_note
from sparsify_cli.maths.intervals import Estimate, independent_difference
from sparsify_cli.maths.scopes import columns
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="worst_group",
    value=None,
    unit="fraction",
    better="higher",
    definition="Accuracy of the group with the lowest accuracy in this column.",
    source="Sagawa et al. 2020; intervals Wilson 1927, Tango 1998 (same group), Newcombe 1998 (another group)",
)

Members = dict[str, Bool[Tensor, " n"]]
Correct = Shaped[Tensor, " n"]


@dataclass(frozen=True)
class WorstGroup(Metric):
    """Worst-group accuracy of each group column.

    Args:
        least: groups with fewer samples are left out and named.
    """

    least: int = 10

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Worst group of the compressed and the dense model and the change; nothing when there are no groups."""
        now = population_mean(attrgetter("correct"), evidence.compressed)
        before = population_mean(attrgetter("correct"), evidence.dense) if evidence.dense else None
        seeds = seeds_note(evidence.compressed, evidence.dense)
        found: list[Finding] = []
        for column, _, large in columns(evidence.compressed[0], self.least):
            about = replace(ABOUT, scope=f"group:{column}", note=seeds)
            found += self._column(about, large, now, before) if large else [self._too_small(about)]
        return found

    def _too_small(self, about: Finding) -> Finding:
        return replace(about, note=f"not enough data: no group has {self.least} samples")

    def _column(self, about: Finding, members: Members, now: Correct, before: Correct | None) -> list[Finding]:
        worst, found = lowest(now, members), estimate(now[members[lowest(now, members)]])
        findings = [_finding(about, found, members, worst, "compressed")]
        if before is None:
            return findings
        former = lowest(before, members)
        dense = estimate(before[members[former]])
        same = worst == former
        change = estimate_change(now[members[worst]], before[members[worst]]) if same else independent_difference(found, dense)
        was = _finding(about, dense, members, former, "dense")
        return [*findings, was, replace(_finding(about, change, members, worst, "change"), note=_moved(worst, former))]


def lowest(correct: Correct, members: Members) -> str:
    """The value whose samples have the lowest mean; the first in sorted order wins a tie."""
    return min(sorted(members), key=lambda value: float(correct[members[value]].double().mean()))


def _finding(about: Finding, found: Estimate, members: Members, value: str, of: str) -> Finding:
    note = f"lowest is {value!r} of {len(members)} groups; picking the lowest of several makes it look somewhat too low"
    note = note if len(members) > 1 else f"{value!r} is the only group with enough samples"
    here = replace(about, of=of, n=int(members[value].sum()), note="; ".join(part for part in (note, about.note) if part))  # type: ignore[arg-type]
    least, most = (-1.0, 1.0) if of == "change" else (0.0, 1.0)
    return replace(here, value=found.value, low=max(found.low, least), high=min(found.high, most))


def _moved(worst: str, former: str) -> str:
    return f"the same group, {worst!r}" if worst == former else f"the lowest was {former!r} and is {worst!r} now"
