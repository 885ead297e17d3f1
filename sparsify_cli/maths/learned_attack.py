"""An attacker who learns: a logistic regression tells forgotten samples from unseen ones, judged on samples it did not learn from.

    repeat REPEATS times: shuffle both sides, cut them into FOLDS parts
        for each part: standardise, fit by Newton's method on the other parts (penalty |w|^2 / 2, none on the offset), AUC on the part
    value = mean of all these AUCs        interval = value +- T sqrt(1 / (FOLDS REPEATS) + 1 / (FOLDS - 1)) S

S is the spread of the AUCs and 1 / (FOLDS - 1) the size of a part over that of what was learned from: the fits share samples, so their
AUCs are not independent, and an interval of pooled scores is too narrow. T has the degrees of freedom of one cross-validation, since
further ones only use the same samples again: with those of all parts, intervals of 10 to 150 samples a side that tell nothing hold 0.5 in
86 to 92 of 100 draws, with these in 93 to 98. The mean over draws is then 0.5; that of scores pooled over parts lies below.

Source: Nadeau and Bengio 2003 (Machine Learning 52, 239), corrected resampled variance; Bouckaert and Frank 2004 (PAKDD, LNCS 3056, 3), the
same for repeated cross-validation. Degrees of freedom: ours.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.maths.intervals import Estimate
from sparsify_cli.maths.ranking import placements

FOLDS, REPEATS = 5, 5
T = 2.776445105197793
"""97.5 % quantile of Student's t with FOLDS - 1 degrees of freedom."""
STEPS, FARTHEST, DONE = 60, 2.0, 1e-8
"""Newton steps at most, how far a step moves a sample's logit at most, and the step that is none."""


def learned_auc(features: Float[Tensor, "n features"], forgotten: Bool[Tensor, " n"], seed: int) -> Estimate:
    """AUC of forgotten above unseen by an attacker who learned on others, with its 95 % interval inside [0, 1].

    Args:
        features: what the attacker sees of each sample, float64.
        forgotten: which side; at least FOLDS of each.
        seed: of the parts.
    """
    generator = torch.Generator().manual_seed(seed)
    aucs = torch.cat([_part_aucs(features, forgotten, _parts(forgotten, generator)) for _ in range(REPEATS)])
    half = T * math.sqrt(1 / len(aucs) + 1 / (FOLDS - 1)) * float(aucs.std())
    value = float(aucs.mean())
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def fitted_logits(
    features: Float[Tensor, "n features"], forgotten: Bool[Tensor, " n"], learned: Bool[Tensor, "fits n"]
) -> Float[Tensor, "fits n"]:
    """What logistic regressions say of every sample, each fitted on the samples it learned from."""
    rows, weights = _standardised(features, learned.double()), learned.double()
    penalty = torch.ones(rows.shape[2], dtype=rows.dtype)
    penalty[-1] = 1e-9  # the offset; not quite nought, so that every system can be solved
    beta = torch.zeros(rows.shape[0], rows.shape[2], dtype=rows.dtype)
    for _ in range(STEPS):
        chances = torch.sigmoid(_times(rows, beta))
        slope = _times(rows.mT, (chances - forgotten.double()) * weights) + penalty * beta
        curve = (rows * (chances * (1 - chances) * weights).unsqueeze(2)).mT @ rows + torch.diag(penalty)
        step = torch.linalg.solve(curve, slope)
        far = _times(rows, step).abs().amax(dim=1, keepdim=True)
        beta -= step * (FARTHEST / far.clamp_min(FARTHEST))
        if float(far.max()) < DONE:
            break
    return _times(rows, beta)


def _parts(forgotten: Bool[Tensor, " n"], generator: torch.Generator) -> Bool[Tensor, "folds n"]:
    """Which samples lie in each part; both sides are cut alike."""
    part = torch.empty(len(forgotten), dtype=torch.int64)
    for side in (forgotten, ~forgotten):
        places = side.nonzero().reshape(-1)
        part[places[torch.randperm(len(places), generator=generator)]] = torch.arange(len(places)) % FOLDS
    return part == torch.arange(FOLDS).unsqueeze(1)


def _part_aucs(features: Tensor, forgotten: Tensor, parts: Tensor) -> Float[Tensor, " folds"]:
    """AUC on each part, learned from the others."""
    logits = fitted_logits(features, forgotten, ~parts)
    aucs = [placements(said[part], forgotten[part])[forgotten[part]].mean() for said, part in zip(logits, parts, strict=True)]
    return torch.stack(aucs)


def _standardised(features: Tensor, weights: Tensor) -> Float[Tensor, "fits n features"]:
    """Features by mean and spread of the samples of each fit, and a one for the offset."""
    total = weights.sum(dim=1, keepdim=True)
    mean = weights @ features / total
    spread = torch.stack([features[row > 0].std(dim=0, correction=0) for row in weights])
    spread = torch.where(spread > 1e-12 * (1 + mean.abs()), spread, 1.0)
    rows = (features - mean.unsqueeze(1)) / spread.unsqueeze(1)
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=2)


def _times(rows: Tensor, vectors: Tensor) -> Tensor:
    """A product of matrices and vectors, one of each a fit."""
    product: Tensor = (rows @ vectors.unsqueeze(2)).squeeze(2)
    return product
