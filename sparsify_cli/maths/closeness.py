"""How far apart the answers of two models are, and which of two models a third is nearer to.

    distance      mean over samples of 1/2 sum_c |p_c - q_c|: the share of answers that would have to change, in [0, 1]
    profile       mean of |sorted p - sorted q|, p and q the probabilities of the true answers: the distance of Wasserstein between them.
                  It forgives what the distance does not, that two networks are wrong about other samples, as two trainings are by chance;
                  at most the distance
    similarity    d(edited, original) / (d(edited, original) + d(edited, retrained)); 0 = still the original, 1 = the retrained

A ratio says nothing of how far both are: a ruined model scores one half. It is never shown without the two distances.

Source: the ratio: a documented surrogate for the criterion of Peste, Alistarh, Lampert 2021 (arXiv 2107.03860), whose formula could not be
verified; the distance: total variation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.maths.intervals import Estimate, bootstrap_mean


def answer_distance(one: Float[Tensor, "n outputs"], other: Float[Tensor, "n outputs"]) -> Estimate:
    """Mean total variation between rows of probabilities, with a bootstrap interval."""
    return bootstrap_mean((one.double() - other.double()).abs().sum(dim=1) / 2)


def profile_distance(one: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> float:
    """How differently two models spread the probability of the true answer over the same samples, whichever they are unsure of."""
    return float((one.double().sort().values - other.double().sort().values).abs().mean())


def similarity(to_original: float, to_retrained: float) -> float | None:
    """The ratio; None where all three models answer alike."""
    total = to_original + to_retrained
    return to_original / total if total > 0 else None


def relative_distance(edited: Float[Tensor, " d"], original: Float[Tensor, " d"], retrained: Float[Tensor, " d"]) -> float | None:
    """|edited - retrained| / |original - retrained|; below 1 = nearer than before. None where original and retrained are the same.

    Only convex models have one minimum to be near to; elsewhere two trainings end far apart whatever was forgotten.
    """
    before = float(torch.linalg.vector_norm(original.double() - retrained.double()))
    return float(torch.linalg.vector_norm(edited.double() - retrained.double())) / before if before > 0 else None
