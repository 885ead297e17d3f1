"""Classwise calibration error: how far each class's stated probability is from how often the class is true, bin by bin.

With the bins b over the probability p_c of class c, and y_c = 1 where c is the true class:

    ECE_c = sum_b (n_b / n) |mean_b p_c - mean_b y_c|          classwise ECE = mean over classes of ECE_c

The calibration error of the predicted label (maths/calibration_error.py) never looks at the other classes' probabilities; this
looks at all. As there, the signed gaps make it a mean of one number a sample. For two classes the two ECE_c are the same but at the
edges of bins, and equal that of the probability of `yes`.

Source: Kull et al. 2019 (arXiv 1910.12656), classwise ECE; equal-mass bins as in maths/calibration_error.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsify_cli.maths.calibration_error import calibrated_level, gap_contributions

Binning = Callable[[Float[Tensor, " n"], int], Int[Tensor, " n"]]
"""Bin of each probability, for so many bins."""


def classwise_contributions(
    probabilities: Float[Tensor, "n outputs"], targets: Int[Tensor, " n"], binning: Binning, bins: int
) -> Float[Tensor, " n"]:
    """One number a sample; their mean is the classwise ECE."""
    total = torch.zeros(len(targets), dtype=torch.float64)
    for label, p in enumerate(probabilities.T.contiguous()):
        total += gap_contributions(p, targets == label, binning(p, bins))
    return total / probabilities.shape[1]


def classwise_level(probabilities: Float[Tensor, "n outputs"], binning: Binning, bins: int) -> tuple[float, float]:
    """(mean, 95 % quantile) of the classwise ECE that a perfectly calibrated model with these probabilities would show.

    The quantile is the mean of the classes' quantiles, as if they all were high together: never too low.
    """
    levels = torch.tensor([calibrated_level(p, binning(p, bins)) for p in probabilities.T.contiguous()], dtype=torch.float64)
    usual, most = levels.mean(dim=0).tolist()
    return usual, most
