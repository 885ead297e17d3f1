"""Interdependence: how well a linear regression tells each predicted attribute from the other predicted attributes.

R^2 of an ordinary linear regression (with intercept) of the yes-or-no prediction of an attribute on those of all the others,
fitted and scored on the test set: 0 = the others tell nothing about it, 1 = it follows from them. It looks at predictions only; part
of it is there because the attributes themselves go together.

    R^2_a = 1 - residual sum of squares / sum of squares around the mean

The paper links growing interdependence to growing bias. Whether it rises or falls under compression is not asserted: it can fall
where predictions become noise, and did in a small trial of ours. Fitted and scored on the same samples it is somewhat too high and
never exactly 0: the interval reaches down by as much, and the note says what attributes without any link would show. Simulated with
5 and 20 attributes and 200 to 6000 samples the interval holds the truth in 93 to 97 of 100 cases.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622) for the measure of one attribute; the mean over attributes, closed form and
intervals (maths/linear_dependence.py, bootstrap over samples) are ours. Several models a side: the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Model, seeds_note
from sparsify_cli.maths.linear_dependence import chance_level, constant, linear_dependence, optimism
from sparsify_cli.maths.resampled_totals import content_order, noted, resampled_totals, with_interval
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="interdependence",
    value=None,
    unit="fraction",
    definition="Share of the variance (R^2) of a predicted attribute that a linear regression on the other predicted attributes explains.",
    source="Iofinova et al. 2023; mean over attributes and intervals ours (bootstrap, paired for the change)",
)
MODELS: tuple[Model, ...] = ("compressed", "dense", "change")


@dataclass(frozen=True)
class Interdependence(Metric):
    """R^2 of each predicted attribute given the others.

    Args:
        least: fewer samples than this, or not more samples than attributes, are "not enough data".
    """

    least: int = 10
    needs = frozenset({"attributes"})

    def measure(self, evidence: Evidence) -> list[Finding]:
        """R^2 of every attribute and their mean, of the compressed and the dense model, and the paired change."""
        models = MODELS[: 3 if evidence.dense else 1]
        missing = self._missing(evidence.compressed[0])
        if missing:
            return [replace(ABOUT, of=of, n=len(evidence.compressed[0]), note=missing) for of in models]
        links, seeds = Links(evidence), seeds_note(evidence.compressed, evidence.dense)
        found = [links.mean(i, of) for i, of in enumerate(models)]
        found += [links.one(i, of, a) for a in range(len(links.names)) for i, of in enumerate(models)]
        return [noted(finding, seeds) for finding in found]

    def _missing(self, predictions: Predictions) -> str:
        if not predictions.has_attributes:
            return "undefined: the model tells classes, not attributes"
        n, attributes = len(predictions), len(predictions.attributes)
        least = max(self.least, attributes + 1)
        if n < least:
            return f"not enough data: {n} samples, at least {least} are needed"
        return "" if attributes > 1 else "undefined: there is no other attribute"


@dataclass(frozen=True, eq=False)
class Links:
    """R^2 of every attribute for every side, with resamples.

    Args:
        evidence: about attributes.
    """

    evidence: Evidence

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the attributes."""
        return self.evidence.compressed[0].attributes

    @cached_property
    def fixed(self) -> Bool[Tensor, "of a"]:
        """True where a model of the side, or for the change of either, predicts one value only."""
        each = [torch.stack([constant(model.labels) for model in side]).any(dim=0) for side in self._sides]
        return torch.stack(each if len(each) == 1 else [*each, each[0] | each[1]])

    @cached_property
    def defined(self) -> Bool[Tensor, " a"]:
        """Attributes with a number on every side: the ones in the mean."""
        return ~self.fixed.any(dim=0)

    @cached_property
    def values(self) -> Float[Tensor, "of a"]:
        """R^2; NaN where it is not defined."""
        return self._with_change([torch.stack([linear_dependence(m.labels).r_squared for m in side]).mean(dim=0) for side in self._sides])

    @cached_property
    def drawn(self) -> Float[Tensor, "resamples of a"]:
        """R^2 in each resample, to first order."""
        n, (sides, a) = len(self.evidence.compressed[0]), (len(self._sides), len(self.names))
        shares = torch.cat([*map(_contributions, self._sides), torch.ones(n, 1, dtype=torch.float64)], dim=1)
        bits = torch.cat([model.labels > 0 for side in self._sides for model in side], dim=1)
        totals = resampled_totals(shares, content_order(bits))
        means = (totals[:, :-1] / totals[:, -1:]).reshape(-1, sides, a)
        return torch.stack([*means.unbind(1), *([means[:, 0] - means[:, 1]] if sides == 2 else [])], dim=1)

    def one(self, position: int, of: Model, attribute: int) -> Finding:
        """Finding of one attribute."""
        here = replace(ABOUT, of=of, scope=f"attribute:{self.names[attribute]}", n=len(self.evidence.compressed[0]))
        if self.fixed[position, attribute]:
            return replace(here, note="undefined: a model predicts one value only")
        found = with_interval(replace(here, value=float(self.values[position, attribute])), self.drawn[:, position, attribute])
        return self._beside_chance(found, 1)

    def mean(self, position: int, of: Model) -> Finding:
        """Finding of the mean over attributes."""
        here, left = replace(ABOUT, of=of, n=len(self.evidence.compressed[0])), self._left_out()
        if not self.defined.any():
            return replace(here, note="undefined: for every attribute a model predicts one value only")
        here = replace(here, value=float(self.values[position, self.defined].mean()), note=left)
        found = with_interval(here, self.drawn[:, position, self.defined].mean(dim=1))
        return self._beside_chance(found, int(self.defined.sum()))

    @cached_property
    def _sides(self) -> list[Sequence[Predictions]]:
        return [side for side in (self.evidence.compressed, self.evidence.dense) if side]

    def _with_change(self, each: list[Float[Tensor, " a"]]) -> Float[Tensor, "of a"]:
        return torch.stack(each if len(each) == 1 else [*each, each[0] - each[1]])

    def _beside_chance(self, finding: Finding, averaged: int) -> Finding:
        """Say what no link at all would show, and lower the interval's lower end by what fitting and scoring on the same samples adds."""
        if finding.of == "change" or finding.value is None:
            return finding
        regressors = int((~self.fixed[MODELS.index(finding.of)]).sum()) - 1
        usual, most = chance_level(regressors, finding.n)
        found = noted(finding, f"attributes without any link would show about {100 * usual:.2f} % on this many samples")
        if found.low is None or found.high is None:
            return found
        low = found.low - optimism(finding.value, regressors, finding.n)
        none = finding.value <= (most if averaged == 1 else usual)
        return replace(found, low=0.0 if none else max(low, 0.0), high=min(found.high, 1.0))

    def _left_out(self) -> str:
        names = [name for name, there in zip(self.names, self.defined.tolist(), strict=True) if not there]
        return f"without {', '.join(names)}, of which a model predicts one value only" if names else ""


def _contributions(side: Sequence[Predictions]) -> Float[Tensor, "n a"]:
    return torch.stack([linear_dependence(model.labels).contributions for model in side]).mean(dim=0)
