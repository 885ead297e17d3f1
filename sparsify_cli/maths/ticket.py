"""Does a winning ticket really win? The verdict by rigorous conditions.

    C1  the ticket reaches the best dense network, within eps
    C2  it beats the same masks with weights drawn anew, and random masks with the same counts, by at least delta
    C3  at a sparsity that is not trivial: random masks are below the dense network there, by more than eps

    C1 and C2 and C3          jackpot
    C2, ticket >= fine-tuned  secondary prize: below dense, but not below pruning and fine-tuning
    not C2                    no ticket: the masks alone are as good
    else                      no prize: pruning and fine-tuning is better

The dense network must be trained to its best: a ticket that reaches an under-trained one has won nothing.

Source: Ma et al. 2021 (arXiv 2107.00166), abstract and introduction; the thresholds are ours, 0.3 and 1 point.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What follows, and why.

    Args:
        name: jackpot, secondary prize, no ticket or no prize.
        reaches_dense: C1.
        beats_masks: C2.
        is_sparse: C3.
    """

    name: str
    reaches_dense: bool
    beats_masks: bool
    is_sparse: bool


def verdict(
    *, dense: float, ticket: float, reinit: float, random: float, finetuned: float | None = None, eps: float = 0.003, delta: float = 0.01
) -> Verdict:
    """The verdict on mean accuracies, fractions in [0, 1].

    Args:
        dense: the best dense network of any recipe tried, not that of the ticket's own recipe.
        ticket: the ticket.
        reinit: its masks, weights drawn anew.
        random: random masks with its counts.
        finetuned: pruned and fine-tuned at its sparsity; None = not tried, and no secondary prize.
        eps: differences up to which two accuracies count as equal.
        delta: least lead that counts.
    """
    reaches, beats, sparse = ticket >= dense - eps, ticket - max(reinit, random) >= delta, random < dense - eps
    if not beats:
        name = "no ticket"
    elif reaches and sparse:
        name = "jackpot"
    elif finetuned is not None and ticket >= finetuned - eps:
        name = "secondary prize"
    else:
        name = "no prize"
    return Verdict(name, reaches, beats, sparse)
