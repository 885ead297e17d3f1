"""Co-occurrence: how much more often an attribute is told of the group that has it more often in training than of everyone else.

    C(a, I) = P(predicted a | in G) - P(predicted a | not in G)        on the test set

G is the group of the identity I that training favours. The note holds the same of the truth, in training and in the test set: what the
model exaggerates is more than that. Pairs are those of bias amplification, the most skewed in training first; scopes are as there.

Source: the matrices of Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622), of predictions beside the truth; their difference, classes as one
class against the rest and columns of more than two values are ours. Intervals Newcombe 1998, method 10; of the change with Tango 1998 for
each group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Bool, Shaped
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import estimate, estimate_change, population_mean, seeds_note
from sparsify_cli.maths.identity_pairs import IdentityPairs, Rules
from sparsify_cli.maths.intervals import Estimate, independent_difference
from sparsify_cli.maths.one_against_rest import answers
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="cooccurrence",
    value=None,
    unit="fraction",
    definition="Share of predicted positives in the group that training favours, minus that in everyone else.",
    source="Iofinova et al. 2023; intervals Newcombe 1998, Tango 1998",
)


@dataclass(frozen=True)
class CoOccurrence(Metric):
    """How far answers go with groups.

    Args:
        identities: attributes that tell groups apart as group columns do; not asked of classes.
        most: pairs that are told, the most skewed in training first.
        least: groups with fewer samples are "not enough data".
    """

    identities: tuple[str, ...] = ()
    most: int = 160
    least: int = 10
    needs = frozenset({"train"})
    each_attribute = False

    def measure(self, evidence: Evidence) -> list[Finding]:
        """C of each pair, of the compressed and the dense model, and the change; nothing without groups.

        Raises:
            UnknownName: an identity is not among the attributes.
        """
        if evidence.train is None:
            return [replace(ABOUT, note="undefined: nothing is known of the training set")]
        known = IdentityPairs(evidence.compressed[0], evidence.train.targets, evidence.train.groups, Rules(self.identities))
        pairs = known.pairs
        ranked = known.trained.skew[pairs.attribute, pairs.identity].argsort(descending=True, stable=True)[: self.most]
        return [finding for p in ranked.tolist() for finding in self._of_pair(evidence, known, p)]

    def _of_pair(self, evidence: Evidence, known: IdentityPairs, p: int) -> Iterator[Finding]:
        attribute, identity, inside = (int(column[p]) for column in known.pairs)
        members = known.members[:, identity] == bool(inside)
        about = _about(known, attribute, identity, bool(inside))
        if min(int(members.sum()), int((~members).sum())) < self.least:
            yield replace(about, note=f"not enough data: a group has fewer than {self.least} samples; {about.note}")
            return
        says = partial(_says, attribute)
        now = population_mean(says, evidence.compressed)
        about = replace(about, note="; ".join(filter(None, (about.note, seeds_note(evidence.compressed, evidence.dense)))))
        yield _with(about, _gap(now, members))
        if evidence.dense:
            before = population_mean(says, evidence.dense)
            yield _with(replace(about, of="dense"), _gap(before, members))
            parts = (estimate_change(now[group], before[group]) for group in (members, ~members))
            yield _with(replace(about, of="change"), independent_difference(*parts))


def _says(attribute: int, model: Predictions) -> Bool[Tensor, " n"]:
    return answers(model.labels, model.logits.shape[1])[:, attribute]


def _gap(said: Shaped[Tensor, " n"], members: Bool[Tensor, " n"]) -> Estimate:
    return independent_difference(estimate(said[members]), estimate(said[~members]))


def _with(about: Finding, found: Estimate) -> Finding:
    return replace(about, value=found.value, low=max(found.low, -2.0), high=min(found.high, 2.0))


def _about(known: IdentityPairs, attribute: int, identity: int, inside: bool) -> Finding:
    """Scope, and the same of the truth."""
    at, scope = (attribute, identity), known.scope(attribute, identity, inside=inside)
    rates = [(float(one.inside[at]), float(one.outside[at])) for one in (known.trained, known.tested)]
    (trained, tested) = (100 * (a - b if inside else b - a) for a, b in rates)
    return replace(
        ABOUT, n=len(known.test), scope=scope, note=f"of the truth {trained:+.1f} points in training, {tested:+.1f} in the test set"
    )
