"""From one number a sample to findings: the compressed model, its dense ancestor, and the change between them.

Any metric that is a mean over samples (accuracy, NLL, ECE in its signed form, AUC in its placement form) is compared here,
once: the change is measured sample by sample, because both models saw the same samples. Several populations (seeds) are
averaged sample by sample first, so the interval speaks of the choice of test samples and not of the choice of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from sparsify_cli.maths.intervals import Estimate, bootstrap_mean, paired_difference, wilson
from sparsify_cli.maths.scopes import parts
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding

PerSample = Shaped[Tensor, " n"]
"""One number a sample whose mean is the metric; bool when the metric is a share of samples."""

Model = Literal["compressed", "dense", "change"]


@dataclass(frozen=True)
class Comparison:
    """How findings are made.

    Args:
        about: name, unit, direction, definition and source of the metric; everything else is filled in.
        least: fewer samples than this are "not enough data".
        bounds: range of the metric; intervals are cut to it.
        share: of samples; a sample has 0 or 1, or a mean of such over networks or attributes.
    """

    about: Finding
    least: int = 10
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    share: bool = False

    def findings(self, compressed: PerSample, dense: PerSample | None = None, *, scope: str = "all") -> list[Finding]:
        """Findings of one scope.

        Args:
            compressed: one number a sample.
            dense: the same for the dense model on the same samples, or None.
            scope: as in `Finding`.
        """
        now, before = self._counted(compressed), None if dense is None else self._counted(dense)
        found = [self.finding("compressed", lambda: self._bounded(estimate(now)), len(compressed), scope)]
        if before is not None:
            found.append(self.finding("dense", lambda: self._bounded(estimate(before)), len(compressed), scope))
            found.append(self.finding("change", lambda: self._bounded_change(estimate_change(now, before)), len(compressed), scope))
        return found

    def _counted(self, values: PerSample) -> PerSample:
        """Shares of samples that are all 0 or 1, as when several networks agree, are counted: their interval must not claim certainty."""
        plain = self.share and values.dtype != torch.bool and bool(((values == 0) | (values == 1)).all())
        return values.bool() if plain else values

    def finding(self, of: Model, measured: Callable[[], Estimate], n: int, scope: str) -> Finding:
        """One finding, or "not enough data" without measuring anything."""
        here = replace(self.about, of=of, n=n, scope=scope)
        if n < max(self.least, 1):
            return replace(here, value=None, note=f"not enough data: {n} samples, at least {max(self.least, 1)} are needed")
        result = measured()
        return replace(here, value=result.value, low=result.low, high=result.high)

    def compare(
        self,
        per_sample: Callable[[Predictions], PerSample],
        compressed: Sequence[Predictions],
        dense: Sequence[Predictions],
        *,
        per_scope: bool = False,
    ) -> list[Finding]:
        """Findings over all samples and, with `per_scope`, for each class and each group."""
        each = over_attributes(per_sample)
        now, before = population_mean(each, compressed), population_mean(each, dense) if dense else None
        found = self.findings(now, before)
        for scope, members in parts(compressed[0]) if per_scope else ():
            found += self.findings(now[members], None if before is None else before[members], scope=scope)
        return [replace(f, note=f.note or seeds_note(compressed, dense)) for f in found]

    def _bounded(self, result: Estimate) -> Estimate:
        low, high = self.bounds
        return Estimate(result.value, max(result.low, low), min(result.high, high))

    def _bounded_change(self, result: Estimate) -> Estimate:
        low, high = self.bounds
        return Estimate(result.value, max(result.low, low - high), min(result.high, high - low))


def over_attributes(per_sample: Callable[[Predictions], PerSample]) -> Callable[[Predictions], PerSample]:
    """The same for predictions of attributes: the mean over them; for classes itself."""

    def each(predictions: Predictions) -> PerSample:
        count = len(predictions.attributes)
        if not count:
            return per_sample(predictions)
        return torch.stack([per_sample(predictions.of_attribute(i)).double() for i in range(count)]).mean(dim=0)

    return each


def population_mean(per_sample: Callable[[Predictions], PerSample], population: Sequence[Predictions]) -> PerSample:
    """`per_sample` averaged over models, sample by sample; of a single model unchanged (bool stays bool)."""
    if len(population) == 1:
        return per_sample(population[0])
    return torch.stack([per_sample(p).double() for p in population]).mean(dim=0)


def estimate(values: PerSample) -> Estimate:
    """Mean with a score interval for shares, a bootstrap interval otherwise."""
    return wilson(int(values.sum()), len(values)) if values.dtype == torch.bool else bootstrap_mean(values)


def estimate_change(after: PerSample, before: PerSample) -> Estimate:
    """Difference of the means over the same samples, with a paired interval."""
    if after.dtype == before.dtype == torch.bool:
        return paired_difference(after, before)
    return bootstrap_mean(after.double() - before.double())


def seeds_note(*populations: Sequence[Sized]) -> str:
    """What an average over several models does and does not cover; nothing for single models."""
    most = max(len(population) for population in populations)
    return f"mean over up to {most} models a side; the interval covers the choice of samples, not of seeds" if most > 1 else ""
