"""Bias amplification: how much more of an attribute's predicted positives than of its true ones lie in the group training favours.

For an attribute a and an identity I (two groups), the favoured group G is the one with the larger share of a in the training set:

    BA(a, I) = |predicted a, in G| / |predicted a|  -  |true a, in G| / |true a|        on the test set

0 = predicted positives are shared between the groups as the true ones are; positive = the model exaggerates what training linked;
negative = it evens it out, or worse. Undefined where the model predicts nobody to have a. A pair (a, I) is left out where the groups
differ too little in training (|P1 - P0| / min(P1, P0) < 0.1), where either group has fewer than 10 true positives in the test set,
and where a is I itself. The backdoor variant of the paper is the same number with the planted cue (grayscale, yellow square) as
group column.

One finding a pair, scope `attribute:<a>@<column>=<favoured value>` (`class:` for classes); the mean over the pairs of a column, scope
`group:<column>`; the mean over all pairs, scope `all`. Means are over the pairs that are defined for every model, so that the models
can be compared. An interval needs 10 predicted positives, and some of them in either group: with fewer a bootstrap claims too much.
That of a mean needs as much of nine in ten of its pairs.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622), category bias and its rules of eligibility. Ours: a column with more than
two values as each value against the rest, classes as one class against the rest (of two classes the second, label 1), the means,
intervals from a bootstrap over samples (with 300 to 6000 of them they held the truth in 94 to 97 of 100 simulated cases). Several
models a side: the mean of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.amplification import Amplification, amplification
from sparsify_cli.maths.comparison import Model, seeds_note
from sparsify_cli.maths.identity_pairs import IdentityPairs, Pairs, Rules
from sparsify_cli.maths.one_against_rest import answers
from sparsify_cli.maths.resampled_totals import RESAMPLES, content_order, noted, with_interval
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="bias_amplification",
    value=None,
    unit="fraction",
    definition="Share of predicted positives in the group that training favours, minus the share of true positives in it.",
    source="Iofinova et al. 2023, category bias; means, classes and more than two groups ours; bootstrap, paired for the change",
)
MODELS: tuple[Model, ...] = ("compressed", "dense", "change")
AT_ONCE = 64
"""Pairs resampled together: bounds memory."""

ENOUGH = 10
"""Predicted positives that an interval needs."""

FEW = 4
"""Models whose predicted positives are all listed; of more, the fewest and the most."""

TOLERATED = 0.1
"""Share of pairs without an interval of their own that the interval of a mean may rest on."""


@dataclass(frozen=True)
class BiasAmplification(Metric):
    """Bias amplification of attributes, or classes, with regard to groups.

    Args:
        identities: attributes that tell groups apart as group columns do; not asked of classes.
        positives: a pair with fewer true positives than this in a group of the test set is left out.
        skew: a pair whose groups differ relatively less than this in training is left out.
        most: pairs that get findings of their own, the most skewed in training first; the means are over all.
        values: a column with more values than this is not taken for groups.
    """

    identities: tuple[str, ...] = ()
    positives: int = 10
    skew: float = 0.1
    most: int = 160
    values: int = 20
    needs = frozenset({"train"})

    def measure(self, evidence: Evidence) -> list[Finding]:
        """BA of all, each column and each pair, of the compressed and the dense model, and the change; nothing without groups.

        Raises:
            UnknownName: an identity is not among the attributes.
        """
        if evidence.train is None:
            return [replace(ABOUT, note="undefined: nothing is known of the training set")]
        rules = Rules(self.identities, max(self.positives, 1), self.skew, self.values)
        known = IdentityPairs(evidence.compressed[0], evidence.train.targets, evidence.train.groups, rules)
        found = Study(evidence, known, self.most).findings() if known.columns else []
        seeds = seeds_note(evidence.compressed, evidence.dense)
        return [noted(finding, seeds) for finding in found]


class Mean:
    """A mean over pairs as it grows, on the test set and on its resamples."""

    def __init__(self, sides: int) -> None:
        self.values = torch.zeros(sides, dtype=torch.float64)
        self.drawn = torch.zeros(RESAMPLES, sides, dtype=torch.float64)
        self.defined = torch.zeros(RESAMPLES, sides, dtype=torch.float64)
        self.weak = torch.zeros(sides, dtype=torch.int64)
        self.pairs = self.undefined = 0

    def add(self, values: Float[Tensor, "of p"], drawn: Float[Tensor, "resamples of p"], weak: Bool[Tensor, "of p"]) -> None:
        """Add pairs, all but those that are undefined for a model; `weak` ones vary too little from resample to resample."""
        whole = ~values.isnan().any(dim=0)
        self.values += values[:, whole].sum(dim=1)
        self.drawn += drawn[:, :, whole].nansum(dim=2)
        self.defined += (~drawn[:, :, whole].isnan()).sum(dim=2)
        self.weak += weak[:, whole].sum(dim=1)
        self.pairs += int(whole.sum())
        self.undefined += int((~whole).sum())

    def finding(self, about: Finding, position: int) -> Finding:
        """The mean with its interval; a resample in which some pairs are undefined counts the others."""
        here, weak = replace(about, value=float(self.values[position] / self.pairs)), int(self.weak[position])
        if weak > TOLERATED * self.pairs:
            return noted(here, f"no interval, because {weak} of the pairs have too few predicted positives for one")
        return with_interval(here, self.drawn[:, position] / self.defined[:, position])


@dataclass(frozen=True, eq=False)
class Study:
    """Findings about the pairs of one evidence.

    Args:
        evidence: predictions of both sides.
        known: its pairs.
        most: pairs that get findings of their own.
    """

    evidence: Evidence
    known: IdentityPairs
    most: int

    def findings(self) -> list[Finding]:
        """The mean over all pairs, then over those of each column, then each pair."""
        means: dict[str | None, Mean] = {column: Mean(len(self.sides)) for column in (None, *self.known.columns)}
        found: list[Finding] = []
        for start in range(0, len(self.known.pairs.attribute), AT_ONCE):
            pairs = self.known.pairs.where(slice(start, start + AT_ONCE))
            measured = amplification(self._tables, self.known.members, pairs, self._order)
            values, drawn = self._by_side(measured.values[None])[0], self._by_side(measured.drawn)
            weak = torch.stack([measured.is_weak(ENOUGH)[self._rows[of]].any(dim=0) for of in self.sides])
            for column, mean in means.items():
                mine = self._in_column(column)[pairs.identity]
                mean.add(values[:, mine], drawn[:, :, mine], weak[:, mine])
            found += self._of_pairs(pairs, measured, values, drawn)
        return [*(finding for column, mean in means.items() for finding in self._of_mean(column, mean)), *found]

    @cached_property
    def sides(self) -> tuple[Model, ...]:
        """Whose numbers there are."""
        return MODELS[: 3 if self.evidence.dense else 1]

    @cached_property
    def shown(self) -> frozenset[tuple[int, int]]:
        """Pairs (attribute, identity) that get findings of their own."""
        pairs = self.known.pairs
        ranked = self.known.trained.skew[pairs.attribute, pairs.identity].argsort(descending=True, stable=True)[: self.most]
        return frozenset(zip(pairs.attribute[ranked].tolist(), pairs.identity[ranked].tolist(), strict=True))

    @cached_property
    def _rows(self) -> dict[Model, list[int]]:
        """Which models a number is made from."""
        count, both = len(self.evidence.compressed), len(self.evidence.compressed) + len(self.evidence.dense)
        return {"compressed": list(range(count)), "dense": list(range(count, both)), "change": list(range(both))}

    @cached_property
    def _tables(self) -> list[Bool[Tensor, "n a"]]:
        """Truth, then what each model predicts."""
        first, models = self.evidence.compressed[0], (*self.evidence.compressed, *self.evidence.dense)
        return [answers(labels, first.logits.shape[1]) for labels in (first.targets, *(model.labels for model in models))]

    @cached_property
    def _order(self) -> Int[Tensor, " n"]:
        return content_order(torch.cat([*self._tables, self.known.members], dim=1))

    def _by_side(self, numbers: Float[Tensor, "r m p"]) -> Float[Tensor, "r of p"]:
        """Means over the models of each side, and the change."""
        each = [numbers[:, self._rows[of]].mean(dim=1) for of in self.sides[:2]]
        return torch.stack([*each, each[0] - each[1]] if len(each) == 2 else each, dim=1)

    def _in_column(self, column: str | None) -> Bool[Tensor, " i"]:
        """True for the identities of a column, of all without one."""
        return torch.tensor([column in (None, identity.column) for identity in self.known.identities], dtype=torch.bool)

    def _of_mean(self, column: str | None, mean: Mean) -> list[Finding]:
        unfit = None if column is None else self.known.unfit.get(column)
        about = replace(ABOUT, n=len(self.evidence.compressed[0]), note=f"undefined: {unfit}" if unfit else self._counted(column, mean))
        about = replace(about, scope="all" if column is None else f"group:{column}")
        here = [replace(about, of=of) for of in self.sides]
        return [mean.finding(finding, position) for position, finding in enumerate(here)] if mean.pairs else here

    def _counted(self, column: str | None, mean: Mean) -> str:
        """How many pairs are in a mean, and how many are not and why."""
        mine = self._in_column(column)
        counts = {reason: int(which[:, mine].sum()) for reason, which in self.known.left_out.items()}
        counts["undefined, because a model predicts no positives"] = mean.undefined
        total = mean.pairs + sum(counts.values())
        left = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        said = f"mean over {mean.pairs} of {total} pairs" if mean.pairs else f"undefined: none of {total} pairs counts"
        return f"{said}; left out: {left}" if left else said

    def _of_pairs(
        self, pairs: Pairs, measured: Amplification, values: Float[Tensor, "of p"], drawn: Float[Tensor, "r of p"]
    ) -> list[Finding]:
        found: list[Finding] = []
        for p, (attribute, identity) in enumerate(zip(pairs.attribute.tolist(), pairs.identity.tolist(), strict=True)):
            if (attribute, identity) in self.shown:
                about = self._about(attribute, identity, bool(pairs.inside[p]))
                one = Amplification(*(numbers[..., p : p + 1] for numbers in measured))
                found += [self._of_pair(replace(about, of=of), one, values[i, p], drawn[:, i, p]) for i, of in enumerate(self.sides)]
        return found

    def _about(self, attribute: int, identity: int, inside: bool) -> Finding:
        """A finding of a pair without its number: scope, and the counts it rests on."""
        trained, tested = self.known.trained, self.known.tested
        scope = self.known.scope(attribute, identity, inside=inside)
        at = attribute, identity
        rates = float(trained.inside[at]), float(trained.outside[at])
        counts = int(tested.positives_inside[at]), int(tested.positives_outside[at])
        (rate, other), (here, there) = (pair if inside else pair[::-1] for pair in (rates, counts))
        note = f"{100 * rate:.1f} % against {100 * other:.1f} % in training; {here} and {there} true positives in the test set"
        return replace(ABOUT, n=len(self.known.test), scope=scope, note=note)

    def _of_pair(self, about: Finding, one: Amplification, value: Float[Tensor, ""], drawn: Float[Tensor, " r"]) -> Finding:
        rows = self._rows[about.of]
        predicted = sorted(one.predicted[rows, 0].tolist()) if len(rows) > FEW else one.predicted[rows, 0].tolist()
        told = f"{predicted[0]} to {predicted[-1]}" if len(rows) > FEW else " and ".join(map(str, predicted))
        about = noted(about, f"predicted: {told}")
        if value.isnan():
            return replace(about, note=f"undefined: a model predicts no positives; {about.note}")
        about = replace(about, value=float(value))
        if bool(one.is_weak(ENOUGH)[rows].any()):
            return noted(about, f"no interval with fewer than {ENOUGH} predicted positives, or with all of them in one group")
        return with_interval(about, drawn)
