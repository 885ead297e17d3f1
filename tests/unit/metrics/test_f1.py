"""F1 by hand, against torchmetrics and scikit-learn, and its interval."""

import pytest
import torch
from sklearn.metrics import f1_score

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.f1 import F1, contributions
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, said, shuffled


def report(metric, *sides) -> Report:
    """The findings of a compressed model and, where there is one, a dense one."""
    return Report(tuple(metric.measure(Evidence(*((side,) for side in sides)))))


def value(model, **options) -> float:
    """F1 of one model."""
    return report(F1(least=1, **options), model).get("f1").value


def drawn(seed=0, n=200, noise=1.0) -> Predictions:
    """Three classes, one of them rare."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), n, replacement=True, generator=generator)
    logits = 2 * torch.nn.functional.one_hot(targets, 3) + noise * torch.randn(n, 3, generator=generator)
    return Predictions(logits, targets, tuple(map(str, range(n))))


def attributes(logits, targets, names=("a", "b", "c")) -> Predictions:
    """A model of attributes."""
    return Predictions(torch.tensor(logits), torch.tensor(targets), tuple(map(str, range(len(targets)))), {}, tuple(names))


def test_by_hand():
    """Truth 0 0 0 1 2, answers 0 0 1 1 0: class 0 has 2 right of 3 and 3, 4/6; class 1 2/3; class 2 nothing, 0: mean 4/9."""
    assert value(answering([0, 0, 1, 1, 0], [0, 0, 0, 1, 2])) == pytest.approx(4 / 9)


def test_of_an_attribute_it_is_the_f1_of_yes():
    """Truth yes yes no no, answers yes no no yes: 1 right of 2 and 2, F1 = 1/2, and it says so."""
    model = said([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], [1, 1, 0, 0], classes=("no", "yes"))
    found = report(F1(least=1), model).get("f1")
    assert found.value == pytest.approx(0.5) and "answer yes" in found.definition


def test_two_classes_with_names_are_averaged():
    """Truth a a a b, answers a a a a: F1 of a 6/7, of b 0, mean 3/7."""
    assert value(said([[0.9, 0.1]] * 4, [0, 0, 0, 1], classes=("a", "b"))) == pytest.approx(3 / 7)


def test_perfect_constant_and_base_rate():
    """Perfect 1; always the first of three equal classes: (2 / 4 + 0 + 0) / 3; yes at random at the base rate: the base rate."""
    truth = [0, 1, 2] * 20
    assert value(answering(truth, truth)) == pytest.approx(1.0) and value(answering([0] * 60, truth)) == pytest.approx(1 / 6)
    truth, answers = [1, 0, 0, 0] * 25, [0] * 75 + [1] * 25
    random = said([[1 - a, a] for a in answers], truth, classes=("no", "yes"))
    assert value(random) == pytest.approx(0.25, abs=0.02)


def test_renaming_the_labels_changes_nothing():
    """Classes in another order have the same mean."""
    model, order = drawn(), torch.tensor([2, 0, 1])
    other = Predictions(model.logits[:, order.argsort()], order[model.targets], model.ids)
    assert value(other) == pytest.approx(value(model), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_torchmetrics_and_scikit_learn(seed):
    """multiclass_f1_score and f1_score, macro."""
    oracle = pytest.importorskip("torchmetrics.functional.classification").multiclass_f1_score
    model = drawn(seed, n=60, noise=3.0)
    assert value(model) == pytest.approx(float(oracle(model.labels, model.targets, num_classes=3, average="macro")), abs=1e-6)
    assert value(model) == pytest.approx(f1_score(model.targets, model.labels, average="macro"), abs=1e-12)


def test_a_class_that_is_nowhere_is_left_out_and_named():
    """Neither true nor answered: no F1, as in torchmetrics; only answered: F1 = 0 and it counts."""
    nowhere = report(F1(least=1), answering([0, 1, 1], [0, 1, 1], classes=("a", "b", "c"))).get("f1")
    assert nowhere.value == 1.0 and "class c" in nowhere.note
    assert value(answering([0, 1, 2], [0, 1, 1])) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_yes_that_is_nowhere_is_undefined():
    """No true and no answered yes: no number, a note."""
    found = report(F1(least=1), said([[0.9, 0.1]] * 20, [0] * 20, classes=("no", "yes"))).get("f1")
    assert found.value is None and found.note.startswith("undefined")


def test_attributes_are_averaged_without_the_undefined_ones():
    """F1 of yes is 2/3 for a and 1 for b; c is yes nowhere and named: mean 5/6."""
    logits = [[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]
    found = report(F1(least=1), attributes(logits, [[1, 1, 0], [0, 0, 0], [0, 0, 0]])).get("f1")
    assert found.value == pytest.approx(5 / 6) and "without c" in found.note
    none = report(F1(least=1), attributes([[-1.0, -1.0, -1.0]] * 3, [[0, 0, 0]] * 3)).get("f1")
    assert none.value is None and "no attribute" in none.note


def test_contributions_average_to_f1_and_have_its_spread():
    """Leaving each sample out in turn changes F1 as its contribution says: jackknife and contributions have spreads alike within 3 %."""
    model = drawn(n=600)
    each = contributions(model)
    without = torch.stack([contributions(shuffled(model, [j for j in range(600) if j != i])).mean() for i in range(600)])
    jackknife = (without.var() * 599**2 / 600).sqrt()
    assert float((each.var() / 600).sqrt()) == pytest.approx(float(jackknife), rel=0.03)


def test_several_models_are_averaged():
    """F1 1 and 1/6: 7/12, not the F1 of an average."""
    truth = [0, 1, 2] * 20
    found = F1().measure(Evidence((answering(truth, truth), answering([0] * 60, truth))))[0]
    assert found.value == pytest.approx(7 / 12) and "not of seeds" in found.note


def test_the_order_of_samples_does_not_matter():
    """Shuffled samples of a pair of models: the same findings, but for rounding."""
    sides, order = (drawn(0), drawn(0, noise=2.0)), torch.randperm(200).tolist()
    targets = sides[0].targets
    sides = (sides[0], Predictions(sides[1].logits, targets, sides[1].ids))
    mine, theirs = (F1().measure(Evidence(*((one,) for one in pair))) for pair in (sides, [shuffled(one, order) for one in sides]))
    for a, b in zip(mine, theirs, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)


def test_nine_samples_are_not_enough():
    """No number, and a note that says both numbers."""
    found = report(F1(), answering([0] * 9, [0] * 9)).get("f1")
    assert found.value is None and "9 samples, at least 10" in found.note


@pytest.mark.slow
def test_the_interval_holds_the_truth():
    """Of 200 test sets of 200 samples 90 to 98 % of the intervals hold the F1 of 200,000 samples, and of the paired change alike."""
    truth, worse = (contributions(drawn(999, 200_000, noise)).mean() for noise in (1.0, 2.0))
    hits = change = 0
    for seed in range(200):
        model = drawn(seed)
        other = Predictions(drawn(seed).logits + 3**0.5 * torch.randn(200, 3), model.targets, model.ids)
        found = report(F1(), other, model)
        dense, shift = found.get("f1", of="dense"), found.get("f1", of="change")
        hits += dense.low <= truth <= dense.high
        change += shift.low <= worse - truth <= shift.high
    assert 0.90 <= hits / 200 <= 0.98 and 0.90 <= change / 200 <= 0.99
