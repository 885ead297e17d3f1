"""Threshold calibration bias: predicted over true frequency of the value that is rarer in training."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.errors import BadData
from sparsify_cli.metrics.threshold_bias import ThresholdBias
from sparsify_cli.stages.measure import by_attribute
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, shuffled

RARE = Truth(torch.tensor([0] * 9 + [1]))
COMMON = Truth(torch.tensor([0] + [1] * 9))


def telling(labels, targets, *, names=()) -> Predictions:
    """A model that gave these answers about attributes (lists of lists), or about one choice between no and yes."""
    given, true = torch.tensor(labels), torch.tensor(targets)
    logits = given * 4.0 - 2 if true.ndim == 2 else torch.stack([torch.zeros(len(given)), given * 4.0 - 2], dim=1)
    return Predictions(
        logits, true, tuple(f"s{i}" for i in range(len(given))), {}, tuple(names) or (() if true.ndim == 2 else ("no", "yes"))
    )


def report(compressed, train, *dense, least=1) -> Report:
    """The findings, to be asked by name."""
    return Report(tuple(ThresholdBias(least=least).measure(Evidence((compressed,), dense, (), train))))


def ratio(labels, targets, train=RARE) -> float | None:
    """TCB of one choice."""
    return report(telling(labels, targets), train).get("threshold_bias").value


def test_a_rare_attribute_by_hand():
    """Four of ten have it, one is said to: 1/4. Where most of the training set has it, absence is rare: 9/6."""
    labels, targets = [1] + [0] * 9, [1] * 4 + [0] * 6
    assert ratio(labels, targets) == pytest.approx(0.25)
    assert ratio(labels, targets, COMMON) == pytest.approx(1.5)


def test_half_of_the_training_set_is_not_most_of_it():
    """With exactly half the attribute itself counts as the rarer value, as in the paper's "more than .5"."""
    assert ratio([1] + [0] * 9, [1] * 4 + [0] * 6, Truth(torch.tensor([0, 1]))) == pytest.approx(0.25)


def test_perfect_and_constant_predictions():
    """Perfect: 1, both ways round; never predicted: 0; always predicted: 10 / 4."""
    targets = [1] * 4 + [0] * 6
    assert ratio(targets, targets) == 1 and ratio(targets, targets, COMMON) == 1
    assert ratio([0] * 10, targets) == 0 and ratio([1] * 10, targets) == pytest.approx(2.5)


def test_permuted_predictions_are_calibrated():
    """The frequency is right although the samples are wrong: 1, since only frequencies are compared."""
    assert ratio([0] * 6 + [1] * 4, [1] * 4 + [0] * 6) == 1


def test_base_rate_predictions_are_calibrated_on_average():
    """Predicting a tenth at random where a tenth is true gives 1 within the interval."""
    generator = torch.Generator().manual_seed(2)
    targets = (torch.arange(2000) % 10 == 0).long()
    found = report(telling((torch.rand(2000, generator=generator) < 0.1).long().tolist(), targets.tolist()), RARE).get("threshold_bias")
    assert found.low < 1 < found.high and found.high - found.low < 0.45


def test_swapping_no_and_yes_everywhere_changes_nothing():
    """The rarer value is the same people under another name."""
    labels, targets = [1, 0, 0, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    other = ratio([1 - x for x in labels], [1 - x for x in targets], COMMON)
    assert ratio(labels, targets) == other == pytest.approx(0.75)


def test_change_is_paired():
    """Dense 20 of 40, compressed 10 of 40: .5, .25 and -.25; the same model twice has not changed."""
    targets = [1] * 40 + [0] * 160
    dense, compressed = telling([1] * 20 + [0] * 180, targets), telling([1] * 10 + [0] * 190, targets)
    found = report(compressed, RARE, dense)
    seen = {f.of: f for f in found}
    assert [seen[of].value for of in ("compressed", "dense", "change")] == pytest.approx([0.25, 0.5, -0.25])
    assert -0.45 < seen["change"].low < -0.25 < seen["change"].high < -0.1
    same = report(dense, RARE, dense).get("threshold_bias", of="change")
    assert (same.value, same.low) == (0, None) and "no spread" in same.note


def test_several_models_are_averaged():
    """Two models with 10 and 30 of 40: the mean of .25 and .75."""
    targets = [1] * 40 + [0] * 60
    sides = tuple(telling([1] * k + [0] * (100 - k), targets) for k in (10, 30))
    found = ThresholdBias().measure(Evidence(sides, (), (), RARE))[0]
    assert found.value == pytest.approx(0.5) and "not of seeds" in found.note


def test_attributes_are_averaged_and_told_apart():
    """A rare attribute at 1/4 and a common one at 6/4 (absence rarer): mean .875; each alone has its own."""
    labels = [[1, 1]] + [[0, 1]] * 3 + [[0, 0]] * 6
    targets = [[1, 1]] * 4 + [[0, 1]] * 2 + [[0, 0]] * 4
    train = Truth(torch.tensor([[0, 1]] * 9 + [[1, 0]]))
    evidence = Evidence((telling(labels, targets, names=("bald", "young")),), (), (), train)
    whole = ThresholdBias(least=1).measure(evidence)
    each = {f.scope: f.value for f in by_attribute(ThresholdBias(least=1), evidence)}
    assert each == {"attribute:bald": pytest.approx(0.25), "attribute:young": pytest.approx(1.5)}
    assert [f.value for f in whole] == [pytest.approx(0.875)] and "bald, young" in whole[0].note


def test_attributes_that_nobody_has_are_left_out_and_named():
    """The second attribute is rare in training and absent from the test set: the mean is that of the first."""
    targets = [[1, 0]] * 4 + [[0, 0]] * 6
    found = report(telling([[1, 1]] * 10, targets, names=("bald", "pale")), Truth(torch.tensor([[0, 0]] * 3))).get("threshold_bias")
    assert found.value == pytest.approx(2.5) and "without pale" in found.note
    none = report(telling([[1, 1]] * 10, [[0, 0]] * 10), Truth(torch.tensor([[0, 0]] * 3))).get("threshold_bias")
    assert none.value is None and "undefined" in none.note


def test_classes_are_each_against_the_rest():
    """Class 0 is most of the training set, so being another class is rare: (3 of 6) / (4 of 6); class 1: 2 / 3; class 2: 1 / 1; no mean."""
    model = answering([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 2], classes=["a", "b", "c"])
    found = report(model, Truth(torch.tensor([0, 0, 0, 0, 1, 2])))
    assert {f.scope: f.value for f in found} == {
        "class:a": pytest.approx(3 / 4),
        "class:b": pytest.approx(2 / 3),
        "class:c": pytest.approx(1.0),
    }


def test_a_missing_class_is_undefined():
    """No test sample of class c: no ratio for it, and the others have theirs."""
    found = report(answering([0, 1, 2], [0, 1, 1], classes=["a", "b", "c"]), Truth(torch.tensor([0, 1, 2, 2])))
    gone = found.get("threshold_bias", scope="class:c")
    assert gone.value is None and gone.note.startswith("undefined") and found.get("threshold_bias", scope="class:a").value == 1


def test_missing_data_is_said():
    """Nine samples, an empty training set, and training truth about other attributes."""
    few = telling([0] * 9, [0] * 9)
    assert "9 samples, at least 10" in report(few, RARE, least=10).get("threshold_bias").note
    assert "nothing is known of the training set" in report(few, None).get("threshold_bias").note
    assert "training set is empty" in report(few, Truth(torch.zeros(0, dtype=torch.int64))).get("threshold_bias").note
    with pytest.raises(BadData, match="3 attributes, the model 2"):
        report(telling([[0, 1]] * 4, [[0, 1]] * 4), Truth(torch.zeros(5, 3, dtype=torch.int64)))


def test_few_true_samples_have_no_interval():
    """Three of 100 have it: the ratio is there, an interval would be too narrow."""
    found = report(telling([1] * 6 + [0] * 94, [1] * 3 + [0] * 97), RARE).get("threshold_bias")
    assert (found.value, found.low) == (2.0, None) and "3 test samples" in found.note and "fewer than 10" in found.note


def test_the_order_of_samples_does_not_matter():
    """Many more samples than are drawn one by one, in another order: every number is the same."""
    generator = torch.Generator().manual_seed(3)
    targets = (torch.rand(6000, 3, generator=generator) < 0.2).long()
    labels = torch.where(torch.rand(6000, 3, generator=generator) < 0.3, 0, targets)
    one, train = telling(labels.tolist(), targets.tolist()), Truth(targets[:100])
    other = shuffled(one, torch.randperm(6000, generator=generator).tolist())
    assert list(report(one, train)) == list(report(other, train))


@pytest.mark.slow
def test_interval_holds_the_truth():
    """150 test sets of 300 samples, a fifth true, 70 % of them found and 5 % of the rest: .9 is in about 95 of 100 intervals."""
    generator = torch.Generator().manual_seed(4)
    held = 0
    for _ in range(150):
        true = torch.rand(300, generator=generator) < 0.2
        said = torch.rand(300, generator=generator) < torch.where(true, 0.7, 0.05)
        found = report(telling(said.long().tolist(), true.long().tolist()), RARE).get("threshold_bias")
        held += found.low <= 0.9 <= found.high
    assert 133 <= held <= 149
