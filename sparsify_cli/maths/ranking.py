"""Area under the ROC curve, and what each sample contributes to it.

For scores of P positives and N negatives, AUC = P(positive above negative) + half of P(tie). With midranks R over all samples and R' within
the sample's own side, the share of the other side it ranks correctly against is

    positive i: V_i = (R_i - R'_i) / N        negative j: V_j = 1 - (R_j - R'_j) / P

and AUC is the mean of V over either side. `contributions` scales both so that their mean over all samples is the AUC and
their spread is its standard error (DeLong), which makes paired comparisons of two models possible.

Source: Hanley and McNeil 1982 (Radiology 143, 29); DeLong, DeLong, Clarke-Pearson 1988 (Biometrics 44, 837), structural components;
one-vs-rest macro average as scikit-learn's roc_auc_score(multi_class="ovr", average="macro").
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def midranks(scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ranks from 1, equal scores sharing the mean of their ranks."""
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    middle = counts.cumsum(0).double() - (counts.double() - 1) / 2
    ranks: Tensor = middle[place]
    return ranks


def placements(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Share of the other side that each sample ranks correctly against, in [0, 1]; both sides must be present."""
    ranks = midranks(scores)
    result = torch.empty_like(ranks)
    result[positive] = (ranks[positive] - midranks(scores[positive])) / (~positive).sum()
    result[~positive] = 1 - (ranks[~positive] - midranks(scores[~positive])) / positive.sum()
    return result


def auc_contributions(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """One number a sample; their mean is the AUC, their spread its standard error."""
    v, n = placements(scores, positive), len(scores)
    auc = v[positive].mean()
    side = torch.where(positive, n / positive.sum(), n / (~positive).sum())
    return auc + (v - auc) * side


def macro_auc_contributions(probabilities: Float[Tensor, "n outputs"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Mean over classes of the one-vs-rest contributions; every class must be present."""
    columns = [auc_contributions(probabilities[:, label], targets == label) for label in range(probabilities.shape[1])]
    return torch.stack(columns).mean(dim=0)
