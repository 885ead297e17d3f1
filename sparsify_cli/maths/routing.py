"""Routing: a share of the samples, those a model is least sure of, is answered by another one.

Where the cut falls among equally sure samples each of them is routed in part, so that their order does not matter.

Source: Chow 1970 (IEEE Trans. Information Theory 16, 41), rejection below a threshold of confidence; here to a larger model, as in
cascades (Viola and Jones 2001).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def routed(confidence: Float[Tensor, " n"], share: float) -> Float[Tensor, " n"]:
    """How much of each sample is routed, in [0, 1]; they add up to share * n.

    Args:
        confidence: of a model in its answers.
        share: of samples that go, in [0, 1].
    """
    wanted = share * len(confidence)
    cut = below(confidence, share)
    surely, tied = confidence < cut, confidence == cut
    part = (wanted - float(surely.sum())) / max(1.0, float(tied.sum()))
    return surely.double() + tied.double() * part


def below(confidence: Float[Tensor, " n"], share: float) -> float:
    """The confidence at which the cut falls: samples below it go, of those at it some.

    Args:
        confidence, share: as there.
    """
    place = min(len(confidence) - 1, int(share * len(confidence)))
    return float(confidence.sort().values[place])


def least_share(
    confidence: Float[Tensor, " n"], now: Float[Tensor, " n"], other: Float[Tensor, " n"], *, aim: float, steps: int = 100
) -> float | None:
    """The smallest share, in steps, from which on both together are right as often as `aim`; None where all of it is not enough.

    Args:
        confidence: of the model that answers first.
        now: where it is right.
        other: where the one is right that gets what is routed.
        aim: a share of right answers.
        steps: how fine.
    """
    gain, found = other - now, None
    for step in range(steps, -1, -1):
        weights = routed(confidence, step / steps) if step < steps else torch.ones_like(now)
        if float((now + weights * gain).mean()) < aim - 1e-12:
            break
        found = step / steps
    return found
