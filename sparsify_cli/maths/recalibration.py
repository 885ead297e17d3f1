"""Recalibration: answers are moved after training so that confidence, or the share of positive answers, is what validation data says.

    temperature   logits are divided by T > 0, the minimiser of the mean negative log-likelihood of validation answers:
                  no answer changes, only how sure it is
    thresholds    of a yes-or-no answer: the logit's threshold t leaves as many validation answers `yes` as are true, so that the
                  predicted rate is the true one; sure answers stay sure, those near the threshold change

Source: Guo, Pleiss, Sun, Weinberger 2017 (arXiv 1706.04599), section 4.2, temperature. Thresholds: Iofinova, Peste, Alistarh 2023
(arXiv 2304.12622), whose t is the n+-th largest validation logit; ours lies halfway to the next smaller one, so that exactly n+ lie above.
"""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor

from sparsify_cli.values.choices import choices

LOW, HIGH = 1e-3, 1e3
"""Range in which the temperature is looked for."""
ROUNDS = 100


def temperature(logits: Float[Tensor, "n outputs"], targets: Int[Tensor, "n *a"]) -> float | None:
    """T of least mean negative log-likelihood, by safeguarded Newton steps on 1 / T, in which the likelihood is convex.

    None where there is no such T: every answer is right (or has one logit for all options), or answers are worse than a guess.

    Args:
        logits: of validation samples.
        targets: labels, or attributes; all of these share one T.
    """
    rows, right = choices(logits.double(), targets)
    low, high, scale = 1 / HIGH, 1 / LOW, 1.0
    for _ in range(ROUNDS):
        slope, bend = _slope(rows, right, scale)
        low, high = (low, scale) if slope > 0 else (scale, high)
        step = scale - slope / bend if bend > 0 else math.inf
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - scale) <= 1e-12 * scale:
            break
        scale = new
    return 1 / scale if 2 / HIGH < scale < 0.5 / LOW else None


def _slope(rows: Float[Tensor, "m options"], right: Int[Tensor, " m"], scale: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood with respect to the scale of logits."""
    chances = (rows * scale).softmax(dim=1)
    mean = (chances * rows).sum(dim=1)
    own = rows.gather(1, right[:, None])[:, 0]
    spread = (chances * (rows - mean[:, None]).square()).sum(dim=1)
    return float((mean - own).mean()), float(spread.mean())


def threshold(logits: Float[Tensor, " n"], targets: Int[Tensor, " n"]) -> float | None:
    """The threshold above which as many validation answers lie as are `yes`, or, where equal logits stand in the way, nearly as many.

    None where all or none are `yes`, or all logits are equal.

    Args:
        logits: of `yes`, against 0.
        targets: 0 and 1.
    """
    positives = int(targets.sum())
    values, counts = logits.double().unique(return_counts=True)
    if not 0 < positives < len(targets) or len(values) < 2:
        return None
    above = counts.flip(0).cumsum(0)[:-1]  # answers above the cut after the first, second, ... largest value
    cut = int((above - positives).abs().argmin())
    falling = values.flip(0)
    return float((falling[cut] + falling[cut + 1]) / 2)
