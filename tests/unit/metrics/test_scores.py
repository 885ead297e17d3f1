"""Accuracy, NLL, Brier, ECE, AUC and uncertainty by hand, with their change."""

import math

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.accuracy import Accuracy
from sparsify_cli.metrics.auc import AUC
from sparsify_cli.metrics.brier import Brier, sample_brier
from sparsify_cli.metrics.ece import ECE
from sparsify_cli.metrics.nll import NLL, sample_nll
from sparsify_cli.metrics.uncertainty import Uncertainty
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests import metric_checks as checks
from tests.predictions import answering, said

COMPRESSED = said([[0.5, 0.5], [0.25, 0.75]], [0, 1])
DENSE = said([[1.0, 0.0], [0.5, 0.5]], [0, 1])
PAIR = Evidence((COMPRESSED,), (DENSE,))


def report(metric, evidence=PAIR) -> Report:
    """The findings, to be asked by name."""
    return Report(tuple(metric.measure(evidence)))


def values(metric, name, evidence=PAIR, scope="all"):
    """(compressed, dense, change) of a finding."""
    found = report(metric, evidence)
    return tuple(found.get(name, of=of, scope=scope).value for of in ("compressed", "dense", "change"))


def drawn(n=300, outputs=4) -> Predictions:
    """Random predictions, for comparisons with other libraries."""
    logits = torch.randn(n, outputs, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2
    return Predictions(logits, torch.arange(n) % outputs, tuple(map(str, range(n))))


def test_nll_of_two_samples():
    """Compressed: (ln 2 + ln 4/3) / 2 = ln(8/3) / 2; dense: (0 + ln 2) / 2; change: ln(4/3) / 2."""
    assert values(NLL(least=1), "nll") == pytest.approx((math.log(8 / 3) / 2, math.log(2) / 2, math.log(4 / 3) / 2))


def test_nll_is_in_nats_and_finite():
    """A truth given probability e^-200 costs 200 nats, not infinity."""
    checks.check_nll_is_in_nats(lambda predictions: float(sample_nll(predictions).mean()))
    assert float(sample_nll(said([[0.0, 1.0]], [0]))) == pytest.approx(200)


def test_brier_of_two_samples():
    """Compressed: (.25 + .25 + .0625 + .0625) / 2 = .3125; dense: (0 + .5) / 2 = .25."""
    assert values(Brier(least=1), "brier") == pytest.approx((0.3125, 0.25, 0.0625))


def test_brier_sums_over_classes():
    """Three classes: .26, not .0867."""
    checks.check_brier_sums_over_classes(lambda predictions: float(sample_brier(predictions).mean()))


def test_ece_of_two_samples():
    """Compressed: bins .5 (right: gap -.5) and .75 (right: -.25) -> .375; dense: 1.0 right and .5 wrong (tie goes to 0) -> .25."""
    assert values(ECE(least=1), "ece") == pytest.approx((0.375, 0.25, 0.125))


def test_ece_of_equal_mass_bins():
    """One bin of both samples: compressed |.625 - 1| = .375; dense |.75 - .5| = .25. Width and mass differ only in the bins."""
    assert values(ECE(bins=1, binning="equal-mass", least=1), "ece") == pytest.approx((0.375, 0.25, 0.125))
    assert "1 equal-mass bins" in report(ECE(bins=1, binning="equal-mass", least=1)).get("ece").definition


def test_ece_opens_its_interval_where_a_perfect_model_would_show_as_much():
    """100 samples at p = .5, 52 right: .02 is less than the .04 of a perfect model, so 0 is not excluded; with 90 right it is."""
    near = said([[0.5, 0.5]] * 100, [0] * 52 + [1] * 48)
    far = said([[0.5, 0.5]] * 100, [0] * 90 + [1] * 10)
    low, excluded = (report(ECE(), Evidence((p,))).get("ece") for p in (near, far))
    assert low.value == pytest.approx(0.02) and low.low == 0 and "3.99 %" in low.note
    assert excluded.value == pytest.approx(0.4) and excluded.low > 0.3


def test_accuracy_of_classes_and_groups():
    """Class 0: 2 of 3; class 1: 1 of 1; left: 1 of 2; right: 2 of 2; all: 3 of 4."""
    groups = {"slant": ["left", "left", "right", "right"]}
    found = report(Accuracy(least=1), Evidence((answering([0, 1, 0, 1], [0, 0, 0, 1], groups=groups, classes=["a", "b", "c"]),)))
    seen = {f.scope: (f.value, f.n) for f in found}
    assert seen["all"] == (0.75, 4) and seen["class:b"] == (1.0, 1) and seen["class:a"] == (pytest.approx(2 / 3), 3)
    assert seen["group:slant=left"] == (0.5, 2) and seen["group:slant=right"] == (1.0, 2)
    assert seen["class:c"] == (None, 0)


def test_accuracy_counts_samples_not_classes():
    """Three of four right is 75 % although one class is always wrong."""
    checks.check_accuracy_counts_samples(lambda p: report(Accuracy(least=1), Evidence((p,))).get("accuracy").value)


def test_accuracy_has_a_score_interval_and_a_paired_change():
    """0 of 10 right: up to 27.75 %; the same 40 answers twice: change 0 within 8.8 points."""
    wrong = report(Accuracy(), Evidence((answering([1] * 10, [0] * 10),))).get("accuracy")
    checks.check_share_is_honest_at_the_edge(lambda *_: (wrong.low, wrong.high))
    same = answering([0] * 30 + [1] * 10, [0] * 40)
    change = report(Accuracy(), Evidence((same,), (same,))).get("accuracy", of="change")
    assert change.value == 0
    checks.check_no_change_is_not_certainty(lambda *_: (change.low, change.high))


def test_few_samples_are_not_enough_data():
    """Nine samples where ten are asked: no number, and a note that says both."""
    few = answering([0] * 9, [0] * 9)
    found = report(Accuracy(), Evidence((few,), (few,)))
    assert {f.value for f in found} == {None} and "9 samples, at least 10" in found.get("accuracy").note


def test_several_seeds_are_averaged_sample_by_sample():
    """Seeds with 3 and 1 of 4 right: 50 %, n stays 4, and the note says what the interval leaves out."""
    seeds = (answering([0, 0, 0, 1], [0] * 4), answering([0, 1, 1, 1], [0] * 4))
    found = report(Accuracy(least=1), Evidence(seeds)).get("accuracy")
    assert (found.value, found.n) == (0.5, 4) and found.low < 0.5 < found.high and "not of seeds" in found.note


def test_uncertainty_of_a_binary_attribute_is_the_papers():
    """|p - .5| < .4 at p = .05, .5, .95: one in three."""
    checks.check_uncertainty_is_two_sided(lambda p: report(Uncertainty(least=1), Evidence((p,))).get("uncertainty").value)


def test_uncertainty_threshold_is_an_option():
    """Below .7 instead of .9: of .5/.5 and .25/.75 only the first is unsure."""
    assert values(Uncertainty(below=0.7, least=1), "uncertainty") == (0.5, 0.5, 0.0)


def test_auc_by_hand():
    """Scores for class 1: truth 1 has {.8, .4}, truth 0 has {.6, .1}: 3 of 4 pairs in order, and the same for class 0."""
    model = said([[0.2, 0.8], [0.6, 0.4], [0.4, 0.6], [0.9, 0.1]], [1, 1, 0, 0])
    assert report(AUC(least=1), Evidence((model,))).get("auc").value == pytest.approx(0.75)


def test_auc_without_a_class_is_undefined():
    """No sample of class c: no number, and the note names it."""
    found = report(AUC(), Evidence((answering([0] * 20, [0] * 10 + [1] * 10, classes=["a", "b", "c"]),))).get("auc")
    assert found.value is None and found.note == "undefined: no sample of class c"


def test_networks_that_agree_on_every_sample_are_no_certainty():
    """Twelve right answers of two networks each: as of one network, not 100 % for sure, and no change for sure either."""
    right = said([[0.9, 0.1]] * 12, [0] * 12)
    one, two = (report(Accuracy(), Evidence((right,) * k, (right,) * k)) for k in (1, 2))
    for of in ("compressed", "dense", "change"):
        assert (two.get("accuracy", of=of).low, two.get("accuracy", of=of).high) == (
            one.get("accuracy", of=of).low, one.get("accuracy", of=of).high,
        )  # fmt: skip
    assert 0.7 < two.get("accuracy").low < 0.8


def test_bins_of_equal_mass_have_a_name_of_their_own():
    """Of four samples in two bins the sure half is right, the unsure half wrong at 0.6: half of 0 and half of 0.6."""
    seen = said([[1.0, 0.0], [1.0, 0.0], [0.6, 0.4], [0.6, 0.4]], [0, 0, 1, 1])
    assert report(ECE(bins=2, least=1), Evidence((seen,))).get("ece_equal_mass").value == pytest.approx(0.3)
    assert report(ECE(binning="equal-mass")).get("ece_equal_mass") is None


def test_perfect_auc_claims_no_interval():
    """Every pair in order: 1, but ten samples a class do not prove it, so there is no interval of width zero."""
    found = report(AUC(), Evidence((answering([0, 1, 2] * 10, [0, 1, 2] * 10),))).get("auc")
    assert (found.value, found.low, found.high) == (1.0, None, None) and "no spread" in found.note


def test_scores_agree_with_scikit_learn():
    """log_loss, brier_score_loss (sum over classes) and roc_auc_score (ovr, macro) on 300 samples of 4 classes."""
    model = drawn()
    p, y, evidence = model.probabilities.numpy(), model.targets.numpy(), Evidence((model,))
    assert report(NLL(), evidence).get("nll").value == pytest.approx(log_loss(y, p), abs=1e-12)
    assert report(Brier(), evidence).get("brier").value == pytest.approx(brier_score_loss(y, p, scale_by_half=False), abs=1e-12)
    assert report(AUC(), evidence).get("auc").value == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-12)


def test_ece_agrees_with_torchmetrics():
    """multiclass_calibration_error with ten bins, where no confidence is exactly 1 or a bin edge."""
    oracle = pytest.importorskip("torchmetrics.functional.classification").multiclass_calibration_error
    model = drawn()
    expected = oracle(model.probabilities, model.targets, num_classes=4, n_bins=10)
    assert report(ECE(), Evidence((model,))).get("ece").value == pytest.approx(float(expected), abs=1e-6)
