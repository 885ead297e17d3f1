"""Smooth calibration error: the calibration error of smoothed residuals, at the bandwidth that equals the error itself.

For confidences f and outcomes y, with the Gaussian kernel K_s of width s reflected at 0 and at 1,

    u_s(t) = mean_i K_s(t, f_i) (f_i - y_i)        smECE_s = integral over [0, 1] of |u_s(t)|        smECE = the s with smECE_s = s

K_s is the sum of normal densities around f, -f, 2 - f, 2 + f, -2 + f ..., which is how heat spreads in a rod with closed ends. So
in the cosines of the rod it is a product: the k-th one is multiplied by exp(-(pi k s)^2 / 2). Residuals are shared between the two
nearest of CELLS cells and smoothed there by Fourier transforms, which for the widths that occur is the integral to within
0.00001. smECE_s does not grow with s, so the fixed point is unique; it is found by Newton's method.

Contributions: with S(t) the sign of u_s smoothed by the same kernel, smECE_s = mean_i S(f_i) (f_i - y_i). How the width moves with
the data multiplies each sample's deviation from the mean by 1 / (1 - d smECE_s / d s), which makes the spread right and leaves the
mean alone.

Source: Blasiok and Nakkiran 2023 (arXiv 2309.12236), SmoothECE: the kernel, smECE_s and the fixed point are theirs. Read from the
definition, not from their code. Not the "smooth calibration error" with Lipschitz tests of
Kakade and Foster 2008. The fixed point on all samples is taken as written; contributions, the level of a perfect model and the grid
are ours.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Complex, Float, Int, Shaped
from torch import Tensor

CELLS = 4096
COARSE = 512
"""Cells for the level of a perfect model, which is a rough number anyway."""

DRAWS = 64

Field = Float[Tensor, "*draws cells"]
"""One number a cell of [0, 1]."""

Waves = Complex[Tensor, "*draws waves"]
"""The cosines of a field and of its mirror image."""


def smooth_ece(confidence: Float[Tensor, " n"], correct: Shaped[Tensor, " n"]) -> float:
    """The smooth calibration error.

    Args:
        confidence: in [0, 1].
        correct: 1 where the outcome is what was predicted, else 0.
    """
    return fixed_point(_gathered(confidence.double() - correct.double(), confidence))


def smooth_contributions(confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """One number a sample; their mean is the smooth calibration error."""
    gap = confidence.double() - correct.double()
    residuals = _gathered(gap, confidence)
    width = fixed_point(residuals)
    waves = cosines(residuals)
    field = smoothed(waves, width)
    at, share = _places(confidence, CELLS)
    each = (smoothed(cosines(field.sign()), width)[at] * share).sum(dim=0) * gap
    return width + (each - each.mean()) / (1 - _slope(waves, field, width))


def fixed_point(residuals: Float[Tensor, " cells"]) -> float:
    """The width at which the integral of |smoothed residuals| equals the width, by Newton's method; 0 where there are none."""
    waves = cosines(residuals)
    low, high = 0.0, float(residuals.abs().sum())
    width = high / 2
    for _ in range(100 if high > 0 else 0):
        field = smoothed(waves, width)
        excess = float(field.abs().sum()) - width
        if abs(excess) < 1e-15:
            break
        low, high = (width, high) if excess > 0 else (low, width)
        width += excess / (1 - _slope(waves, field, width))
        width = width if low < width < high else (low + high) / 2
    return width


def cosines(field: Field) -> Waves:
    """How much of each cosine is in a field that is reflected at both ends."""
    found: Tensor = torch.fft.rfft(torch.cat([field, field.flip(-1)], dim=-1))
    return found


def smoothed(waves: Waves, width: float | Float[Tensor, "draws 1"], *, slope: bool = False) -> Field:
    """The field after the reflected Gaussian kernel of this width, or (`slope`) how that changes with the width."""
    cells = waves.shape[-1] - 1
    frequency = math.pi * torch.arange(cells + 1, dtype=torch.float64)
    factor = torch.exp(-((frequency * width) ** 2) / 2)
    factor = -(frequency**2) * width * factor if slope else factor
    spread: Tensor = torch.fft.irfft(waves * factor, n=2 * cells)[..., :cells]
    return spread


def calibrated_smooth_level(confidence: Float[Tensor, " n"]) -> tuple[float, float]:
    """(mean, 95 % quantile) of the smooth calibration error that a perfectly calibrated model with these confidences would show.

    Simulated: the summed residual of a cell is taken as normal with variance sum f (1 - f) / n^2; the quantile is that of a normal
    distribution with the mean and spread of the draws. The order of samples does not matter and the draws are always the same.
    """
    c = confidence.double().clamp(0, 1)
    variance = torch.bincount((c * COARSE).long().clamp(max=COARSE - 1), weights=c * (1 - c), minlength=COARSE) / len(c) ** 2
    normal = torch.randn(DRAWS, COARSE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = normal * variance.sqrt()
    waves = cosines(draws)
    low, high = torch.zeros(DRAWS, 1, dtype=torch.float64), draws.abs().sum(dim=1, keepdim=True)
    for _ in range(12):
        width = (low + high) / 2
        above = smoothed(waves, width).abs().sum(dim=1, keepdim=True) > width
        low, high = torch.where(above, width, low), torch.where(above, high, width)
    found = (low + high) / 2
    return float(found.mean()), float(found.mean() + 1.6448536269514722 * found.std())


def _gathered(gap: Float[Tensor, " n"], confidence: Float[Tensor, " n"]) -> Float[Tensor, " cells"]:
    """Mean residual by cell; each sample is shared between the two nearest cells."""
    at, share = _places(confidence, CELLS)
    return torch.bincount(at.flatten(), weights=(gap * share).flatten(), minlength=CELLS) / len(gap)


def _places(confidence: Float[Tensor, " n"], cells: int) -> tuple[Int[Tensor, "2 n"], Float[Tensor, "2 n"]]:
    """The two cells nearest to each confidence and its share in them; beyond the ends lies the reflection, which is the end cell itself."""
    position = confidence.double().clamp(0, 1) * cells - 0.5
    below = position.floor()
    part = position - below
    at = torch.stack([below, below + 1]).long().clamp(0, cells - 1)
    return at, torch.stack([1 - part, part])


def _slope(waves: Waves, field: Field, width: float) -> float:
    """How the integral of |field| changes with the width: it never grows."""
    return min(float((field.sign() * smoothed(waves, width, slope=True)).sum()), 0.0)
