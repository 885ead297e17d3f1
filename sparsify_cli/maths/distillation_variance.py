"""What distillation does to the noise of stochastic gradients, from moments of two gradients.

The gradient of (1 - w) CE + w T^2 KL is g - w t, with g that of CE and t = grad CE - T^2 grad KL. For linear models and T = 1, t is the
teacher's own gradient. With step size gamma and strong convexity mu, a step adds at most 2 gamma^2 N(w) of noise:

    N(w)    = w^2 |E t|^2 / (gamma mu) + E |g - w t|^2
    w*      = E <g, t> / (E |t|^2 + |E t|^2 / (gamma mu))
    N(w*) / N(0) = 1 - rho^2 / (1 + beta / (gamma mu))
    rho     = E <g, t> / sqrt(E |g|^2 E |t|^2)          correlation
    beta    = |E t|^2 / E |t|^2                         how much of t is the same in every batch: bias
    w_cv    = cov(g, t) / var(t)                        best for the variance alone, whatever the bias

Source: Safaryan, Peste, Alistarh 2023 (arXiv 2305.17581), distillation as partial variance reduction; t for teachers of any
architecture is derived here. The theory is at the optimum; at other points the numbers are a proxy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GradientMoments:
    """Means over batches.

    Args:
        gg: E |g|^2.
        gt: E <g, t>.
        tt: E |t|^2.
        mean_gt: <E g, E t>, as its unbiased estimate.
        mean_tt: |E t|^2, as its unbiased estimate, at least 0.
    """

    gg: float
    gt: float
    tt: float
    mean_gt: float
    mean_tt: float

    @property
    def correlation(self) -> float:
        """rho; 0 where one of the gradients vanishes."""
        return self.gt / math.sqrt(self.gg * self.tt) if self.gg > 0 and self.tt > 0 else 0.0

    @property
    def beta(self) -> float:
        """How biased t is, in [0, 1]."""
        return self.mean_tt / self.tt if self.tt > 0 else 0.0

    def noise(self, weight: float, gamma_mu: float) -> float:
        """N(w)."""
        bias = weight**2 * self._bias(gamma_mu) if weight else 0.0  # no teacher, no bias, however little bounds it
        return bias + self.gg - 2 * weight * self.gt + weight**2 * self.tt

    def best_weight(self, gamma_mu: float) -> float:
        """w*, as the formula has it; below 0 where the teacher points the other way."""
        whole = self.tt + self._bias(gamma_mu)
        return self.gt / whole if whole > 0 and math.isfinite(whole) else 0.0

    def ratio(self, gamma_mu: float) -> float:
        """N(w*) / N(0), in [0, 1]."""
        return self.noise(self.best_weight(gamma_mu), gamma_mu) / self.gg if self.gg > 0 else 1.0

    @property
    def variance_weight(self) -> float:
        """w_cv."""
        spread = self.tt - self.mean_tt
        return (self.gt - self.mean_gt) / spread if spread > 0 else 0.0

    def _bias(self, gamma_mu: float) -> float:
        if self.mean_tt == 0:
            return 0.0
        return self.mean_tt / gamma_mu if gamma_mu > 0 else math.inf


class Moments:
    """Gathers them batch by batch."""

    def __init__(self) -> None:
        self.count, self.gg, self.gt, self.tt = 0, 0.0, 0.0, 0.0
        self.sum_g: Tensor | None = None
        self.sum_t: Tensor | None = None

    def add(self, g: Tensor, t: Tensor) -> None:
        """Two gradients of one batch, flat."""
        g, t = g.double(), t.double()
        self.count += 1
        self.gg, self.gt, self.tt = self.gg + float(g @ g), self.gt + float(g @ t), self.tt + float(t @ t)
        self.sum_g = g if self.sum_g is None else self.sum_g + g
        self.sum_t = t if self.sum_t is None else self.sum_t + t

    def means(self) -> GradientMoments:
        """The means. |E t|^2 from pairs of different batches: the square of their mean would count its noise as bias.

        Raises:
            ValueError: nothing was added.
        """
        if self.sum_g is None or self.sum_t is None:
            raise ValueError("no gradients were added")
        n, pairs = self.count, max(1, self.count * (self.count - 1))
        mean_gt = (float(self.sum_g @ self.sum_t) - self.gt) / pairs
        mean_tt = max(0.0, (float(self.sum_t @ self.sum_t) - self.tt) / pairs)
        return GradientMoments(self.gg / n, self.gt / n, self.tt / n, mean_gt, mean_tt)
