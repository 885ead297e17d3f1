"""Nine published rules for how many weights are pruned, restated: seven break one of the five properties, two do not.

Each rule maps (scores, sparsity as a binary float) to the number of zeros, as the named code computes it.
"""

from __future__ import annotations

import math

import pytest
import torch

from sparsify_cli.maths.keep import as_fraction, keep_count, top_k
from tests.keep_properties import violations


def open_lth(scores, sparsity):
    """The score at index ceil(n*s) is the threshold; what is not above it goes."""
    threshold = sorted(scores)[math.ceil(sparsity * len(scores))]
    return sum(score <= threshold for score in scores)


def sparsegpt(scores, sparsity):
    """The score at index int(n*s) is the threshold; what is not above it goes (also wanda's magnitude baseline)."""
    threshold = sorted(scores)[int(len(scores) * sparsity)]
    return sum(score <= threshold for score in scores)


def wanda_per_row(scores, sparsity):
    """The first int(n*s) of a sorted row go."""
    return len(sorted(scores)[: int(len(scores) * sparsity)])


def synaptic_flow(scores, sparsity):
    """Its sparsity is the fraction kept; the int((1 - kept) * n)-th smallest is the threshold."""
    kept = 1.0 - sparsity
    k = int((1.0 - kept) * len(scores))
    return sum(score <= sorted(scores)[k - 1] for score in scores) if k >= 1 else 0


def jaxpruner(scores, sparsity):
    """Keeps round(n*(1-s)), but at least one."""
    return len(scores) - max(1, round(len(scores) * (1 - sparsity))) if sparsity else 0


def sparsimony_grow(scores, sparsity):
    """Grows until int(n*(1-s)) are there."""
    return len(scores) - int(len(scores) * (1 - sparsity))


def obc(scores, sparsity):
    """Prunes ceil(n*s)."""
    return math.ceil(len(scores) * sparsity)


def torch_prune(scores, sparsity):
    """Prunes round(n*s), the smallest by topk."""
    return round(sparsity * len(scores))


def sparsimony_drop(scores, sparsity):
    """Prunes ceil(ones - (1-s)*n), subtracted in float32, which hides the binary rounding."""
    return math.ceil(torch.tensor(len(scores), dtype=torch.int) - (1 - sparsity) * len(scores))


def ours(scores, sparsity):
    """Exact integers and a stable order."""
    ranked = torch.tensor(list(scores), dtype=torch.float64)
    return int((~top_k(ranked, keep_count(len(scores), as_fraction(sparsity)))).sum())


TABLE = {
    open_lth: (6, 5, 10, 10, 1, None),
    sparsegpt: (6, 4, 10, 10, 1, None),
    wanda_per_row: (5, 3, 9, 5, 0, 10),
    synaptic_flow: (5, 3, 9, 10, 0, 10),
    jaxpruner: (5, 3, 9, 5, 0, 9),
    sparsimony_grow: (5, 4, 10, 5, 0, 10),
    obc: (5, 4, 9, 5, 0, 10),
    torch_prune: (5, 4, 9, 5, 0, 10),
    sparsimony_drop: (5, 4, 9, 5, 0, 10),
    ours: (5, 4, 9, 5, 0, 10),
}
"""Zeros for (n=10 s=.5, n=7 s=.5, n=10 s=.9, ten equal scores s=.5, n=10 s=0, n=10 s=1); None: IndexError."""

REQUESTS = ((range(10), 0.5), (range(7), 0.5), (range(10), 0.9), ([1.0] * 10, 0.5), (range(10), 0.0), (range(10), 1.0))

BROKEN = {
    open_lth: "within one weight of n*s",
    sparsegpt: "ties do not matter",
    wanda_per_row: "asking k/n gives exactly k",
    synaptic_flow: "ties do not matter",
    jaxpruner: "exact at 0 and 1",
    sparsimony_grow: "asking k/n gives exactly k",
    obc: "asking k/n gives exactly k",
}
"""A property that each wrong rule breaks."""

BY_NAME = {"ids": lambda rule: rule.__name__}


@pytest.mark.parametrize("rule", TABLE, **BY_NAME)
def test_rules_are_restated_faithfully(rule):
    """Each restated rule gives the counts that its code gave when it was run."""
    for (scores, sparsity), zeros in zip(REQUESTS, TABLE[rule], strict=True):
        if zeros is None:
            with pytest.raises(IndexError):
                rule(scores, sparsity)
        else:
            assert rule(scores, sparsity) == zeros


@pytest.mark.parametrize("rule", BROKEN, **BY_NAME)
def test_wrong_rules_are_rejected(rule):
    """The property suite rejects each of the seven, for a known reason."""
    assert BROKEN[rule] in violations(rule)


@pytest.mark.parametrize("rule", [torch_prune, sparsimony_drop, ours], **BY_NAME)
def test_right_rules_pass(rule):
    """The same suite accepts torch's, sparsimony's drop rule and ours."""
    assert violations(rule) == []
