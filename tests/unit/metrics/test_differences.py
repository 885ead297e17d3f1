"""Churn, exemplars, worst group and group gap by hand."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.churn import Churn
from sparsify_cli.metrics.exemplars import Exemplars
from sparsify_cli.metrics.group_gap import GroupGap
from sparsify_cli.metrics.worst_group import WorstGroup
from sparsify_cli.values.report import Report
from tests.predictions import answering, said

TRUE = [0] * 40
SIDES = {"side": ["left"] * 20 + ["right"] * 20}


def right(left, right):
    """A model with so many of 20 right on either side."""
    return answering([0] * left + [1] * (20 - left) + [0] * right + [1] * (20 - right), TRUE, groups=SIDES)


def report(metric, evidence) -> Report:
    """The findings, to be asked by name."""
    return Report(tuple(metric.measure(evidence)))


def test_churn_counts_changed_answers_right_or_wrong():
    """One lost, one gained, one wrong either way: 3 of 4 changed although accuracy is the same."""
    dense, compressed = answering([0, 1, 1, 0], [0] * 4), answering([1, 0, 2, 0], [0] * 4)
    assert report(Churn(least=1), Evidence((compressed,), (dense,))).get("churn").value == 0.75


def test_churn_of_populations_is_the_mean_over_pairs():
    """Dense seeds answer 0 and 1, the compressed one 0: half of the pairs differ; the dense seeds differ from each other always."""
    zeros, ones = answering([0] * 4, [0] * 4), answering([1] * 4, [0] * 4)
    found = report(Churn(least=1), Evidence((zeros,), (zeros, ones)))
    assert found.get("churn").value == 0.5 and found.get("churn", of="dense").value == 1.0


def test_churn_for_each_class():
    """Class 0 changed in 1 of 2, class 1 in 0 of 2."""
    dense, compressed = answering([0, 0, 1, 1], [0, 0, 1, 1]), answering([0, 2, 1, 1], [0, 0, 1, 1])
    found = report(Churn(per_scope=True, least=1), Evidence((compressed,), (dense,)))
    assert found.get("churn", scope="class:0").value == 0.5 and found.get("churn", scope="class:1").value == 0.0


def test_exemplars_concentrate_among_unsure_samples():
    """20 samples, 4 of them unsure; 2 exemplars, both unsure: share 1, base rate .2, lift 5."""
    dense = said([[0.6, 0.4]] * 4 + [[0.95, 0.05]] * 16, [0] * 20)
    compressed = said([[0.4, 0.6]] * 2 + [[0.95, 0.05]] * 18, [0] * 20)
    found = report(Exemplars(least=2), Evidence((compressed,), (dense,)))
    assert (found.get("exemplars").value, found.get("exemplars").n) == (2.0, 20)
    assert (found.get("exemplars_uncertain").value, found.get("exemplars_uncertain").n) == (1.0, 2)
    assert found.get("exemplars_uncertain", of="dense").value == pytest.approx(0.2)
    assert found.get("exemplars_lift").value == pytest.approx(5.0)


def test_too_few_exemplars_have_no_share():
    """No exemplar at all: the count is 0, the share and the lift are not enough data."""
    same = said([[0.6, 0.4]] * 20, [0] * 20)
    found = report(Exemplars(), Evidence((same,), (same,)))
    assert found.get("exemplars").value == 0 and found.get("exemplars").low == 0
    assert found.get("exemplars_uncertain").value is None and "0 samples" in found.get("exemplars_lift").note


def test_lift_without_unsure_samples_is_undefined():
    """A dense model that is sure everywhere has base rate 0: no division, a note."""
    dense, compressed = answering([0] * 20, [0] * 20), answering([1] * 20, [0] * 20)
    lift = report(Exemplars(), Evidence((compressed,), (dense,))).get("exemplars_lift")
    assert lift.value is None and lift.note.startswith("undefined")


def test_worst_group_and_its_change():
    """Compressed 18/20 left and 10/20 right, dense 19 and 16: worst 50 %, was 80 %, change -30 points, all of them on the right."""
    found = report(WorstGroup(), Evidence((right(18, 10),), (right(19, 16),)))
    seen = [found.get("worst_group", of=of, scope="group:side") for of in ("compressed", "dense", "change")]
    assert [f.value for f in seen] == pytest.approx([0.5, 0.8, -0.3])
    assert seen[2].low < -0.3 < seen[2].high < 0 and seen[0].n == 20 and "'right'" in seen[0].note


def test_worst_group_can_become_another():
    """Dense 10/20 left, 20/20 right; compressed 16 and 12: worst was left .5, is right .6."""
    change = report(WorstGroup(), Evidence((right(16, 12),), (right(10, 20),))).get("worst_group", of="change", scope="group:side")
    assert change.value == pytest.approx(0.1) and "was 'left' and is 'right' now" in change.note
    assert change.low < 0 < change.high


def test_worst_group_ignores_small_groups():
    """A group of three that is always wrong is not the worst group; without any large group there is no number."""
    sides = {"side": ["a"] * 20 + ["b"] * 3}
    model = answering([0] * 20 + [1] * 3, [0] * 23, groups=sides)
    assert report(WorstGroup(), Evidence((model,))).get("worst_group", scope="group:side").value == 1.0
    small = report(WorstGroup(least=30), Evidence((model,))).get("worst_group", scope="group:side")
    assert small.value is None and "no group has 30 samples" in small.note


def test_group_gap_and_its_change():
    """Gap of the right: compressed .9 - .5 = .4, dense .95 - .8 = .15, change .25; the left is the best group: 0."""
    found = report(GroupGap(), Evidence((right(18, 10),), (right(19, 16),)))
    seen = [found.get("group_gap", of=of, scope="group:side=right") for of in ("compressed", "dense", "change")]
    assert [f.value for f in seen] == pytest.approx([0.4, 0.15, 0.25])
    assert all(f.low < f.value < f.high for f in seen)
    best = found.get("group_gap", scope="group:side=left")
    assert best.value == 0 and best.low is None and best.note == "this is the best group"


def test_group_gap_of_another_best_group_is_drawn():
    """Best was right, is left: samples are drawn, and both are named; half of the right side is as far as 20 samples can tell."""
    change = report(GroupGap(), Evidence((right(18, 10),), (right(10, 18),))).get("group_gap", of="change", scope="group:side=right")
    assert change.value == pytest.approx(0.4) and "was 'right' and is 'left' now" in change.note
    assert 0 < change.low < 0.25 and 0.55 < change.high < 0.8


def test_small_groups_have_no_gap():
    """Three samples: not enough data."""
    model = answering([0] * 23, [0] * 23, groups={"side": ["a"] * 20 + ["b"] * 3})
    small = report(GroupGap(), Evidence((model,))).get("group_gap", scope="group:side=b")
    assert small.value is None and "3 samples, at least 10" in small.note


def test_without_groups_nothing_is_said():
    """No group column: no findings, no error."""
    evidence = Evidence((answering([0] * 20, [0] * 20),))
    assert WorstGroup().measure(evidence) == [] and GroupGap().measure(evidence) == []


@pytest.mark.slow
def test_group_gap_of_another_best_group_holds_the_truth():
    """The left falls from .9 to .6, the right rises from .7 to .85: its gap grows by .25, which 90 to 99 of 100 intervals hold."""
    held = 0
    for seed in range(100):
        chance = torch.rand(2, 200, generator=torch.Generator().manual_seed(seed))
        sure = torch.tensor([[0.6] * 100 + [0.85] * 100, [0.9] * 100 + [0.7] * 100])
        now, before = (
            answering((~row).long().tolist(), [0] * 200, groups={"side": ["left"] * 100 + ["right"] * 100}) for row in chance < sure
        )
        change = report(GroupGap(), Evidence((now,), (before,))).get("group_gap", of="change", scope="group:side=left")
        held += change.low <= 0.25 <= change.high
    assert 90 <= held <= 99
