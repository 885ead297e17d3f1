"""Co-occurrence by hand: shares of predicted positives in two groups."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.maths.intervals import independent_difference, wilson
from sparsify_cli.metrics.cooccurrence import CoOccurrence
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report

GROUPS = {"sex": ("f",) * 40 + ("m",) * 40}


def telling(inside: int, outside: int) -> Predictions:
    """Yes to hats for the first of either group; in truth 20 of either half have one."""
    yes = torch.tensor([i < inside for i in range(40)] + [i < outside for i in range(40)])
    targets = torch.tensor([i < 20 for i in range(40)] * 2).long()[:, None]
    return Predictions((2.0 * yes - 1)[:, None], targets, tuple(map(str, range(80))), GROUPS, ("hat",))


def train(inside: int, outside: int) -> Truth:
    """So many of a hundred of either group have a hat."""
    targets = torch.tensor([i < inside for i in range(100)] + [i < outside for i in range(100)]).long()[:, None]
    return Truth(targets, {"sex": ("f",) * 100 + ("m",) * 100})


def report(compressed: Predictions, known: Truth, dense: Predictions | None = None) -> Report:
    """Findings, to be asked by name."""
    evidence = Evidence((compressed,), (dense,) if dense is not None else (), (0.5,), known)
    return Report(tuple(CoOccurrence().measure(evidence)))


def test_by_hand():
    """30 of 40 women and 10 of 40 men: half; before 20 and 20: nothing; 60 against 20 % in training."""
    found = report(telling(30, 10), train(60, 20), telling(20, 20))
    values = [found.get("cooccurrence", of=of, scope="attribute:hat@sex=f") for of in ("compressed", "dense", "change")]
    assert [one.value for one in values] == pytest.approx([0.5, 0.0, 0.5])
    wanted = independent_difference(wilson(30, 40), wilson(10, 40))
    assert (values[0].low, values[0].high) == pytest.approx((wanted.low, wanted.high))
    assert values[2].low > 0 and "+40.0 points in training, +0.0 in the test set" in values[0].note


def test_the_sign_is_that_of_training():
    """The group that training favours comes first, whichever it is."""
    found = report(telling(10, 30), train(20, 60))
    assert found.get("cooccurrence", scope="attribute:hat@sex=m").value == pytest.approx(0.5)


def test_without_skew_or_groups_nothing_is_said():
    """A pair that training does not link is no pair."""
    assert report(telling(30, 10), train(40, 40)).findings == ()
    plain = telling(30, 10)
    bare = Predictions(plain.logits, plain.targets, plain.ids, {}, plain.classes)
    assert report(bare, Truth(train(60, 20).targets, {})).findings == ()


def test_order_of_samples_does_not_matter():
    """The same numbers for a permuted test set."""
    one, order = telling(30, 10), torch.randperm(80, generator=torch.Generator().manual_seed(0))
    groups = {"sex": tuple(GROUPS["sex"][i] for i in order.tolist())}
    other = Predictions(one.logits[order], one.targets[order], tuple(one.ids[i] for i in order.tolist()), groups, one.classes)
    assert report(one, train(60, 20)).findings == report(other, train(60, 20)).findings
