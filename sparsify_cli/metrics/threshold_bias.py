"""Threshold calibration bias: how often the model predicts the rarer value, divided by how often it is true.

Of an attribute the value that fewer training samples have (the attribute itself if at most half have it, else its absence) is looked
at: share of samples predicted to have it / share that has it, on the test set. 1 = as often as it is true; below 1 the rare value
is under-predicted, 0 = never predicted. It says nothing about whether the right samples were picked.

    TCB = (1 - mean of predictions) / (1 - mean of truth)   where more than half of the training set has the attribute
        = mean of predictions / mean of truth               elsewhere

Attributes seen whole give the mean over the attributes whose rarer value occurs in the test set. Several models a side are averaged:
the ratios have one denominator, so the mean of the ratios is the ratio of the means.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622), with `compute_rare_val_underpredict` of its code, which we take for the
paper's threshold calibration bias. Ours: classes as one class against the rest, without a mean over them, because what one class is
given too often the others are given too rarely and the mean hides it; intervals from a bootstrap over samples, which with 20 or more
true samples of the rarer value held the truth in 92 to 96 of 100 simulated cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.maths.comparison import Model, seeds_note
from sparsify_cli.maths.one_against_rest import answers, asked, shares
from sparsify_cli.maths.resampled_totals import content_order, noted, resampled_totals, with_interval
from sparsify_cli.maths.scopes import class_names
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

ABOUT = Finding(
    name="threshold_bias",
    value=None,
    definition="Share of samples predicted to have the value that is rarer in training, divided by the share that has it.",
    source="Iofinova et al. 2023, threshold calibration bias; one class against the rest is ours; bootstrap, paired for the change",
)
MODELS: tuple[Model, ...] = ("compressed", "dense", "change")
FEW = 10
"""Fewer test samples with the rarer value than this give no interval (simulated, it held the truth in only 88 of 100 cases)."""


@dataclass(frozen=True)
class ThresholdBias(Metric):
    """Predicted over true frequency of the value that is rarer in training.

    Args:
        least: fewer samples than this are "not enough data".
    """

    least: int = 10
    needs = frozenset({"train"})

    def measure(self, evidence: Evidence) -> list[Finding]:
        """TCB of the compressed and the dense model and the paired change; for more than two classes, of each class."""
        first, models = evidence.compressed[0], MODELS[: 3 if evidence.dense else 1]
        missing = self._missing(evidence)
        if missing:
            return [replace(ABOUT, of=of, n=len(first), note=missing) for of in models]
        rare, seeds = Rare(evidence), seeds_note(evidence.compressed, evidence.dense)
        if first.has_attributes:
            return [noted(rare.mean(i, of), seeds) for i, of in enumerate(models)]
        names = asked(first)
        scopes = ["all"] if len(names) == 1 else [f"class:{name}" for name in names]
        return [noted(rare.one(i, of, q, scope), seeds) for q, scope in enumerate(scopes) for i, of in enumerate(models)]

    def _missing(self, evidence: Evidence) -> str:
        n = len(evidence.compressed[0])
        if n < max(self.least, 1):
            return f"not enough data: {n} samples, at least {max(self.least, 1)} are needed"
        if evidence.train is None:
            return "undefined: nothing is known of the training set"
        return "" if len(evidence.train.targets) else "undefined: the training set is empty"


@dataclass(frozen=True, eq=False)
class Rare:
    """How often the rarer value of each question is true and predicted.

    Args:
        evidence: with training truth, at least one sample.
    """

    evidence: Evidence

    @cached_property
    def flipped(self) -> Bool[Tensor, " questions"]:
        """True where "no" is the rarer answer in training."""
        assert self.evidence.train is not None
        return shares(self.evidence.train.targets, self.evidence.compressed[0].logits.shape[1]) > 0.5

    @cached_property
    def counts(self) -> Int[Tensor, " questions"]:
        """Test samples with the rarer value."""
        return self._true.sum(dim=0)

    @cached_property
    def ratios(self) -> Float[Tensor, "of questions"]:
        """TCB of each model and the change; NaN where no sample has the rarer value."""
        return self._ratios(self._columns.sum(dim=0).double()[None])[0]

    @cached_property
    def drawn(self) -> Float[Tensor, "resamples of questions"]:
        """The same in each resample."""
        return self._ratios(resampled_totals(self._columns, content_order(self._columns)))

    def one(self, position: int, of: Model, question: int, scope: str) -> Finding:
        """Finding of one question."""
        n, count, value = len(self._true), int(self.counts[question]), self._rarer(question)
        here = replace(ABOUT, of=of, scope=scope, n=n)
        if not count:
            return replace(here, note=f"undefined: {value} is rarer in training, and no test sample has it")
        here = replace(here, value=float(self.ratios[position, question]))
        here = noted(here, f"{value} is rarer in training; {count} test samples have it")
        if count < FEW:
            return noted(here, f"no interval with fewer than {FEW}")
        return with_interval(here, self.drawn[:, position, question])

    def mean(self, position: int, of: Model) -> Finding:
        """Finding of the mean over attributes."""
        there, here = self.counts > 0, replace(ABOUT, of=of, n=len(self._true))
        if not there.any():
            return replace(here, note="undefined: no test sample has the rarer value of any attribute")
        here = replace(here, value=float(self.ratios[position, there].mean()))
        absent = self._named("without {}, whose rarer value no test sample has", self.counts == 0)
        few = self._named(f"few samples (under {FEW}) have the rarer value of {{}}", there & (self.counts < FEW))
        return with_interval(noted(here, absent, few), self.drawn[:, position, there].nanmean(dim=1))

    @cached_property
    def _true(self) -> Bool[Tensor, "n questions"]:
        first = self.evidence.compressed[0]
        return answers(first.targets, first.logits.shape[1]) ^ self.flipped

    @cached_property
    def _columns(self) -> Int[Tensor, "n columns"]:
        """Truth, then how many models of each side predict the rarer value."""
        sides = [side for side in (self.evidence.compressed, self.evidence.dense) if side]
        return torch.cat([self._true.to(torch.int16), *(self._votes(side) for side in sides)], dim=1)

    def _votes(self, side: Sequence[Predictions]) -> Int[Tensor, "n questions"]:
        votes = torch.zeros(self._true.shape, dtype=torch.int16)
        for model in side:
            votes += answers(model.labels, model.logits.shape[1]) ^ self.flipped
        return votes

    def _ratios(self, totals: Float[Tensor, "r columns"]) -> Float[Tensor, "r of questions"]:
        true, *votes = totals.split(self._true.shape[1], dim=1)
        sizes = (len(self.evidence.compressed), len(self.evidence.dense))
        known = torch.where(true > 0, true, torch.nan)
        each = [vote / size / known for vote, size in zip(votes, sizes, strict=False)]
        return torch.stack(each if len(each) == 1 else [*each, each[0] - each[1]], dim=1)

    def _rarer(self, question: int) -> str:
        first, flipped = self.evidence.compressed[0], bool(self.flipped[question])
        names = class_names(first)
        if len(names) == 2:
            return repr(names[0 if flipped else 1])
        return f"not being {names[question]!r}" if flipped else repr(names[question])

    def _named(self, text: str, which: Bool[Tensor, " questions"]) -> str:
        names = [name for name, there in zip(asked(self.evidence.compressed[0]), which.tolist(), strict=True) if there]
        return text.format(", ".join(names)) if names else ""
