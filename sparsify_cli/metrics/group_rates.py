"""How often each group is answered with yes, rightly and wrongly: the rates of which fairness criteria are made.

    true positive rate      of those who are a yes, the share that is answered yes            P(s = 1 | y = 1)
    false positive rate     of those who are not, the share that is answered yes              P(s = 1 | y = 0)
    false negative rate     of those who are a yes, the share that is answered no             P(s = 0 | y = 1)
    selection rate          the share that is answered yes                                    P(s = 1)

For two classes yes is the second one, and every group of every column has its rates. For several classes "is it this one?" is asked
for each, and a rate is the mean over the classes that have enough samples in the group, which is ours; they have no selection rate,
as its mean over classes is 1 / classes whatever a model says. Attributes have one number a column: the rate of the group it is
worst for (the lowest true positive and selection rate, the highest false ones), mean over attributes, the worst attribute named;
that is ours too. The worst of several groups looks somewhat worse than it is.

Source: rates as in Hardt, Price, Srebro 2016 (arXiv 1610.02413) and fairlearn's MetricFrame; intervals Wilson 1927 and, paired,
Tango 1998 for shares of one model, bootstrap of contributions otherwise (maths/group_rates.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Comparison, population_mean, seeds_note
from sparsify_cli.maths.group_columns import Grouping, by_column
from sparsify_cli.maths.group_rates import Choose, Chosen, blocks, chosen, every, highest, lowest, questions
from sparsify_cli.maths.resampling import resampled_findings
from sparsify_cli.maths.scopes import Members, group_members
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Better, Finding


class RateOf(NamedTuple):
    """Which rate, what it says, which way is good, and which of several groups it is worst for."""

    rate: str
    definition: str
    better: Better
    worst: Choose


RATES = (
    RateOf("tpr", "Share of the samples that are a yes that is answered with yes.", "higher", lowest),
    RateOf("fpr", "Share of the samples that are not a yes that is answered with yes.", "lower", highest),
    RateOf("fnr", "Share of the samples that are a yes that is not answered with yes.", "lower", highest),
    RateOf("selection", "Share of the samples that is answered with yes.", "neither", lowest),
)
ABOUT = Finding(
    name="group_rates",
    value=None,
    unit="fraction",
    source="Hardt et al. 2016; intervals Wilson 1927, Tango 1998; bootstrap of contributions for means of rates",
)


@dataclass(frozen=True)
class GroupRates(Metric):
    """True and false positive, false negative and selection rate of each group.

    Args:
        least: rates of fewer samples are "not enough data".
    """

    least: int = 10

    def measure(self, evidence: Evidence) -> list[Finding]:
        """Rates of the compressed and the dense model and the paired change; nothing when there are no groups."""
        first, seeds = evidence.compressed[0], seeds_note(evidence.compressed, evidence.dense)
        if first.has_attributes:
            found = [f for groups in by_column(first, self.least) for rate in RATES for f in self._worst(rate, evidence, groups)]
        else:
            scopes = ((f"group:{c}={v}", m) for c in sorted(first.groups) for v, m in group_members(first, c).items())
            of_group = self._of_yes if len(questions(first)) == 1 else self._of_classes
            found = [finding for scope, members in scopes for finding in of_group(evidence, scope, members)]
        return [replace(f, note="; ".join(part for part in (f.note, seeds) if part)) for f in found]

    def _of_yes(self, evidence: Evidence, scope: str, members: Members) -> list[Finding]:
        """Rates of a group for a choice between two classes."""
        now, before = (population_mean(_says_yes, side)[members] if side else None for side in (evidence.compressed, evidence.dense))
        assert now is not None
        truth = evidence.compressed[0].targets[members] == 1
        note = f"yes is {questions(evidence.compressed[0])[0]!r}"
        found: list[Finding] = []
        for rate in RATES:
            among = {"fpr": ~truth, "selection": torch.ones_like(truth)}.get(rate.rate, truth)
            given = [None if said is None else _turned(rate.rate, said)[among] for said in (now, before)]
            assert given[0] is not None
            found += Comparison(_about(rate), self.least, (0.0, 1.0), share=True).findings(given[0], given[1], scope=scope)
        return [f if f.value is None else replace(f, note=note) for f in found]

    def _of_classes(self, evidence: Evidence, scope: str, members: Members) -> list[Finding]:
        """Rates of a group, each the mean over classes."""
        rows = members.nonzero()[:, 0]
        groups = Grouping(scope, (scope,), rows, torch.zeros_like(rows))
        found: list[Finding] = []
        for rate in RATES[:-1]:
            text = f"{rate.definition[:-1]}, a yes being a class, mean over classes."
            about = replace(_about(rate), definition=text, scope=scope)
            found += self._mean(about, evidence, groups, (rate.rate, every))
        return found

    def _worst(self, rate: RateOf, evidence: Evidence, groups: Grouping) -> list[Finding]:
        """The rate of the group it is worst for, mean over attributes."""
        text = f"{rate.definition[:-1]}, of the group with the {rate.worst.__name__} one, mean over attributes."
        about = replace(_about(rate), definition=text, scope=groups.scope)
        return self._mean(about, evidence, groups, (rate.rate, rate.worst))

    def _mean(self, about: Finding, evidence: Evidence, groups: Grouping, what: tuple[str, Choose]) -> list[Finding]:
        """Findings of a mean over questions."""
        sides = [side for side in (evidence.compressed, evidence.dense) if side]
        found: list[list[Chosen]] = [[] for _ in sides]
        for truth, said in blocks(sides, groups.rows):
            for side, answers in zip(found, said, strict=True):
                args = {"groups": len(groups.names), "least": self.least}
                side.append(chosen((what[0],), what[1], truth, answers, groups.codes, **args))
        values = [torch.cat([part.values for part in side]) for side in found]
        there = int((~values[0].isnan()).sum())
        if not there or not len(groups.rows):
            return [replace(about, n=len(groups.rows), note=self._too_few(about.scope, groups))]
        each = [torch.stack([part.each for part in side]).sum(dim=0) / there for side in found]
        n = int(torch.stack([part.counted for part in found[0]]).any(dim=0).sum())
        made = resampled_findings(Comparison(about, 1, (0.0, 1.0)), *each, scope=about.scope)
        return [replace(f, n=n, note=self._note(f, evidence.compressed[0], values, groups)) for f in made]

    def _too_few(self, scope: str, groups: Grouping) -> str:
        if "=" not in scope:
            return f"not enough data: fewer than two groups have {self.least} samples to compare"
        return f"not enough data: {len(groups.rows)} samples, no class has the {self.least} that are needed"

    def _note(self, finding: Finding, first: Predictions, values: Sequence[Tensor], groups: Grouping) -> str:
        names, noun = questions(first), "attributes" if first.has_attributes else "classes"
        missing = int(values[0].isnan().sum())
        without = f"{missing} of {len(names)} {noun} left out: too few samples" if missing else ""
        worst = _worst_named(finding, names, values) if first.has_attributes else ""
        return "; ".join(part for part in (worst, without, groups.left_out(), finding.note) if part)


def _about(rate: RateOf) -> Finding:
    return replace(ABOUT, name=f"{ABOUT.name}_{rate.rate}", definition=rate.definition, better=rate.better)


def _says_yes(predictions: Predictions) -> Members:
    return predictions.labels == 1


def _turned(rate: str, said: Tensor) -> Tensor:
    """Answers no in place of yes, for the false negative rate."""
    return said if rate != "fnr" else ~said if said.dtype == torch.bool else 1 - said


def _worst_named(finding: Finding, names: Sequence[str], values: Sequence[Tensor]) -> str:
    """The attribute whose number is worst, or became worst."""
    shown = values[0] - values[1] if finding.of == "change" else values[0 if finding.of == "compressed" else 1]
    sign = 1.0 if finding.better == "lower" else -1.0
    at = int((sign * shown).nan_to_num(-torch.inf).argmax())
    worst = 100 * float(shown[at])
    return f"worst for {names[at]!r} ({f'{worst:+.1f} points' if finding.of == 'change' else f'{worst:.1f} %'})"
