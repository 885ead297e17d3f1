"""Weights that were dropped everywhere, given back to layers in proportion to how much each layer matters.

    grown_l = total * m_l / sum m,   at most .99 of what is free in layer l; what a cap withholds goes to the other layers

m_l is the mean |momentum| of the layer's active weights. Counts are whole and sum to exactly `total`.

Source: Dettmers and Zettlemoyer 2019 (arXiv 1907.04840), Algorithm 1; cap and residual: `Masking.calc_growth_redistribution` of
github.com/varun19299/rigl-reproducibility, `sparselearning/core.py`. Differs: the residual is shared in proportion to m too
(theirs evenly, in floats, and what is left after 1,000 rounds is lost), and where the caps leave no room for all, layers may fill
up to the last weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from sparsify_cli.errors import NonFinite
from sparsify_cli.maths.keep import apportion

CAP = Fraction(99, 100)
"""Share of a layer's free positions that it may get."""


def regrowth(importance: Sequence[float], total: int, free: Sequence[int]) -> list[int]:
    """How many weights grow in each layer.

    Args:
        importance: one number >= 0 a layer; only ratios matter; all zero = in equal parts.
        total: weights to give away, at most the sum of `free`.
        free: positions of each layer that are not kept, those just dropped included.

    Returns:
        Whole counts that sum to exactly `total`.

    Raises:
        NonFinite: an importance is NaN or infinite.
        Infeasible: there are fewer free positions than weights to give away.
    """
    if not all(math.isfinite(value) for value in importance):
        raise NonFinite("The momentum of a layer is not finite.", "Weights cannot be shared among layers by it.")
    caps = [math.floor(CAP * room) for room in free]
    return apportion([Fraction(value) for value in importance], total, caps if sum(caps) >= total else list(free))
