"""Rates of each group by hand and against fairlearn."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.group_rates import GroupRates
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, said, shuffled

NAMES = ("tpr", "fpr", "fnr", "selection")


def report(*sides, **options) -> Report:
    """The findings of a compressed model and, where there is one, a dense one."""
    return Report(tuple(GroupRates(**options).measure(Evidence(*((side,) for side in sides)))))


def choosing(answers, truth, groups=None, classes=("no", "yes")) -> Predictions:
    """A model of two classes that answers this."""
    return said([[0.1, 0.9] if a else [0.9, 0.1] for a in answers], truth, groups=groups, classes=classes)


def drawn(n=400, outputs=2, seed=0, groups=3, noise=1.5) -> Predictions:
    """Random predictions over groups of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(outputs, (n,), generator=generator)
    logits = 2 * torch.nn.functional.one_hot(targets, outputs) + noise * torch.randn(n, outputs, generator=generator)
    codes = (torch.rand(n, generator=generator) ** 2 * groups).long().tolist()
    return Predictions(logits, targets, tuple(map(str, range(n))), {"g": tuple(f"v{c}" for c in codes)})


def attributes(answers, truth, groups) -> Predictions:
    """A model of attributes that answers this."""
    logits = torch.tensor(answers) * 2.0 - 1.0
    return Predictions(logits, torch.tensor(truth), tuple(map(str, range(len(truth)))), {"side": tuple(groups)}, ("a", "b"))


def test_by_hand():
    """Left: 4 a yes, 3 of them found, 2 not, 1 of them called one: 3/4, 1/2, 1/4, 4/6. Right: nothing is answered yes."""
    truth = [1, 1, 1, 1, 0, 0, 1, 0]
    found = report(choosing([1, 1, 1, 0, 1, 0, 0, 0], truth, {"side": ["left"] * 6 + ["right"] * 2}), least=1)
    left, right = ([found.get(f"group_rates_{name}", scope=f"group:side={side}") for name in NAMES] for side in ("left", "right"))
    assert [f.value for f in left] == pytest.approx([0.75, 0.5, 0.25, 4 / 6]) and [f.n for f in left] == [4, 2, 4, 6]
    assert [f.value for f in right] == [0.0, 0.0, 1.0, 0.0]
    assert all(f.low <= f.value <= f.high and f.note == "yes is 'yes'" for f in left)


def test_the_second_class_is_yes_whatever_it_is_called():
    """Classes cat and dog: dogs are found, and the note says so."""
    found = report(choosing([1] * 10 + [0] * 10, [1] * 20, {"side": ["l"] * 20}, ("cat", "dog"))).get(
        "group_rates_tpr", scope="group:side=l"
    )
    assert found.value == 0.5 and found.note == "yes is 'dog'"


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_fairlearn(seed):
    """MetricFrame of the four rates of fairlearn."""
    metrics = pytest.importorskip("fairlearn.metrics")
    model, oracles = (
        drawn(seed=seed),
        (metrics.true_positive_rate, metrics.false_positive_rate, metrics.false_negative_rate, metrics.selection_rate),
    )
    found = report(model)
    for name, oracle in zip(NAMES, oracles, strict=True):
        frame = metrics.MetricFrame(
            metrics=oracle, y_true=model.targets.numpy(), y_pred=model.labels.numpy(), sensitive_features=list(model.groups["g"])
        )
        for value, expected in frame.by_group.items():
            assert found.get(f"group_rates_{name}", scope=f"group:g={value}").value == pytest.approx(expected, abs=1e-12)


def test_change_is_paired():
    """Of 40 yes dense finds 30 and compressed 20 of those: -1/4, with an interval that leaves out 0."""
    truth, groups = [1] * 40, {"side": ["l"] * 40}
    found = report(choosing([1] * 20 + [0] * 20, truth, groups), choosing([1] * 30 + [0] * 10, truth, groups))
    change = found.get("group_rates_tpr", of="change", scope="group:side=l")
    assert change.value == pytest.approx(-0.25) and change.high < 0
    assert found.get("group_rates_fnr", of="change", scope="group:side=l").value == pytest.approx(0.25)


def test_several_classes_are_averaged():
    """Truth 0 0 1 1 2 2, answers 0 0 1 0 0 2: tpr 1, 1/2, 1/2; fpr 2/4, 0, 0; means 2/3 and 1/6; no selection rate."""
    found = report(answering([0, 0, 1, 0, 0, 2], [0, 0, 1, 1, 2, 2], groups={"side": ["l"] * 6}), least=1)
    scope = "group:side=l"
    assert found.get("group_rates_tpr", scope=scope).value == pytest.approx(2 / 3)
    assert found.get("group_rates_fnr", scope=scope).value == pytest.approx(1 / 3)
    assert found.get("group_rates_fpr", scope=scope).value == pytest.approx(1 / 6)
    assert found.get("group_rates_selection", scope=scope) is None


def test_several_classes_agree_with_scikit_learn():
    """The mean true positive rate is balanced accuracy, group by group; renaming the classes changes nothing."""
    from sklearn.metrics import balanced_accuracy_score

    model, order = drawn(600, outputs=4), torch.tensor([2, 0, 3, 1])
    renamed = Predictions(model.logits[:, order.argsort()], order[model.targets], model.ids, model.groups)
    for value in ("v0", "v1", "v2"):
        rows = [i for i, v in enumerate(model.groups["g"]) if v == value]
        expected = balanced_accuracy_score(model.targets[rows], model.labels[rows])
        for one in (model, renamed):
            assert report(one).get("group_rates_tpr", scope=f"group:g={value}").value == pytest.approx(expected, abs=1e-12)


def test_a_class_with_few_samples_in_the_group_is_left_out():
    """20 samples of class 0, 12 of class 1 and 3 of class 2: the mean of the first two, and the note says one is out."""
    truth = [0] * 20 + [1] * 12 + [2] * 3
    found = report(answering([0] * 20 + [1] * 9 + [0] * 6, truth, groups={"side": ["l"] * 35})).get("group_rates_tpr", scope="group:side=l")
    assert found.value == pytest.approx((1 + 0.75) / 2) and "1 of 3 classes left out" in found.note and found.n == 32


def test_small_groups_have_no_number():
    """Three samples: not enough data, for two classes and for three; likewise ten samples without a yes."""
    groups = {"side": ["a"] * 20 + ["b"] * 3}
    two = report(choosing([1] * 23, [1, 0] * 11 + [1], groups))
    three = report(answering([0, 1, 2] * 7 + [0, 1], [0, 1, 2] * 7 + [0, 1], groups=groups))
    for found in (two, three):
        small = found.get("group_rates_tpr", scope="group:side=b")
        assert small.value is None and "not enough data" in small.note
    assert report(choosing([1] * 20, [0] * 20, {"side": ["a"] * 20})).get("group_rates_tpr", scope="group:side=a").value is None


def test_attributes_have_one_number_a_column():
    """a: tpr 1 left, 1/2 right; b: 1/4 left, 1 right: lowest 1/2 and 1/4, mean 3/8, worst for b; nothing for single values."""
    answers = [[1, 1]] + [[1, 0]] * 3 + [[1, 1]] * 2 + [[0, 1]] * 2
    found = report(attributes(answers, [[1, 1]] * 8, ["l"] * 4 + ["r"] * 4), least=1)
    tpr = found.get("group_rates_tpr", scope="group:side")
    assert tpr.value == pytest.approx(3 / 8) and "worst for 'b' (25.0 %)" in tpr.note
    assert found.get("group_rates_fnr", scope="group:side").value == pytest.approx(5 / 8)
    assert found.get("group_rates_fpr", scope="group:side").note.startswith("not enough data")
    assert {f.scope for f in found} == {"group:side"} and len(list(found)) == 4


def test_perfect_and_constant_predictors():
    """Perfect: tpr 1, fpr 0; always yes: both 1; each for both groups."""
    truth, groups = [1, 0] * 20, {"side": ["a", "a", "b", "b"] * 10}
    for answers, fpr in ((truth, 0.0), ([1] * 40, 1.0)):
        found = report(choosing(answers, truth, groups))
        assert {found.get("group_rates_tpr", scope=f"group:side={v}").value for v in "ab"} == {1.0}
        assert {found.get("group_rates_fpr", scope=f"group:side={v}").value for v in "ab"} == {fpr}


def test_without_groups_nothing_is_said():
    """No column, no finding; several models are averaged."""
    assert list(report(choosing([1] * 20, [1] * 20))) == []
    groups = {"side": ["l"] * 20}
    sides = (choosing([1] * 20, [1] * 20, groups), choosing([0] * 20, [1] * 20, groups))
    found = GroupRates().measure(Evidence(sides))[0]
    assert found.value == 0.5 and "not of seeds" in found.note


@pytest.mark.parametrize("outputs", [2, 3])
def test_the_order_of_samples_does_not_matter(outputs):
    """Shuffled: the same findings, but for rounding."""
    order = torch.randperm(400).tolist()
    for a, b in zip(report(drawn(outputs=outputs)), report(shuffled(drawn(outputs=outputs), order)), strict=True):
        assert (a.scope, a.n, a.note) == (b.scope, b.n, b.note)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)


@pytest.mark.slow
def test_the_interval_of_a_mean_over_classes_holds_the_truth():
    """Three classes, one group: of 200 test sets 90 to 98 % of the intervals hold the rate of 200,000 samples."""
    truth = report(drawn(200_000, 3, 999, 1)).get("group_rates_tpr", scope="group:g=v0").value
    found = [report(drawn(200, 3, seed, 1)).get("group_rates_tpr", scope="group:g=v0") for seed in range(200)]
    assert 0.90 <= sum(f.low <= truth <= f.high for f in found) / 200 <= 0.98
