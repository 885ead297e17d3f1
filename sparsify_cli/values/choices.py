"""Answers as choices: what is written for one label a sample holds for several yes-or-no attributes a sample as well.

A label is a choice among all outputs of a network. An attribute with logit o is a choice between no and yes with the logits 0 and o, since
softmax(0, o) = (1 - sigmoid(o), sigmoid(o)). So logits [n, a] of a attributes are n a choices between two, sample by sample; their mean
cross-entropy is the mean binary cross-entropy of the attributes, and their divergences are those of the attributes.

    labels       logits [n, c], targets [n]         n choices
    attributes   logits [n, a], targets [n, a]      n a choices
    tokens       logits [n, t, c], targets [n, t]   n t choices, less those whose target is below 0

Source: standard (the logistic function is the softmax of two).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

TOGETHER, DIFFERENT = 4, 0.05
"""Attributes at most that tell kinds of samples apart, and by how much their shares must differ for it."""


def choices(logits: Float[Tensor, "n *t outputs"], targets: Int[Tensor, "n *a"]) -> tuple[Float[Tensor, "m options"], Int[Tensor, " m"]]:
    """Logits of every choice, and what is right: n of them for labels, n a for attributes, one for each token that counts.

    Args:
        logits: what a network put out.
        targets: labels, or 0 and 1 for each attribute, or tokens.
    """
    if logits.ndim == 3:
        there = targets.reshape(-1) >= 0
        return logits.flatten(0, 1)[there], targets.reshape(-1)[there]
    return options(logits, attributes=targets.ndim == 2), targets.reshape(-1)


def options(logits: Float[Tensor, "*n outputs"], *, attributes: bool) -> Float[Tensor, "m options"]:
    """Logits of every choice, one a row.

    Args:
        logits: what a network put out.
        attributes: its outputs are attributes.
    """
    if not attributes:
        return logits.flatten(0, -2)
    return torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(0, -2)


def of_samples(values: Float[Tensor, "*m"], targets: Int[Tensor, "n *a"]) -> Float[Tensor, " n"]:
    """One number a sample: the sum over its choices."""
    return values if targets.ndim == 1 else values.reshape(targets.shape).sum(dim=1)


def alike(*sides: Int[Tensor, "_ *a"]) -> tuple[Int[Tensor, " _"], ...]:
    """Kinds by which sets of samples can be mixed alike: labels; or combinations of the attributes in which the sets differ most.

    Args:
        sides: labels, or attributes, of two sets or more.
    """
    if sides[0].ndim == 1:
        return sides
    shares = torch.stack([side.double().mean(dim=0) for side in sides if len(side)] or [torch.zeros(sides[0].shape[1])])
    apart = shares.amax(dim=0) - shares.amin(dim=0)
    chosen = [i for i in apart.argsort(descending=True, stable=True).tolist() if apart[i] > DIFFERENT][:TOGETHER]
    powers = 2 ** torch.arange(len(chosen))
    return tuple((side[:, chosen] * powers).sum(dim=1) for side in sides)


def unheard_of(targets: Int[Tensor, "n *a"], retained: Int[Tensor, "m *a"]) -> Bool[Tensor, "n *a"]:
    """Which right answers no retained sample has: a label of which nothing is left, a yes (or no) to an attribute that nobody has.

    Args:
        targets: labels, or 0 and 1 for each attribute.
        retained: the same of the samples that stay.
    """
    if targets.ndim == 1:
        return ~torch.isin(targets, retained)
    return torch.stack([~torch.isin(one, left) for one, left in zip(targets.T, retained.T, strict=True)], dim=1)


def in_any(answers: Bool[Tensor, "n *a"]) -> Bool[Tensor, " n"]:
    """Which samples are marked in any of their answers."""
    return answers if answers.ndim == 1 else answers.any(dim=1)


def kinds(targets: Num[Tensor, "n *a"]) -> Int[Tensor, " n"]:
    """Which samples are alike, for methods that compare like with like: those of a label; with attributes, all of them."""
    return (
        targets
        if targets.ndim == 1 and not targets.is_floating_point()
        else torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
    )
