"""Classwise calibration error by hand and against a slow loop."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.maths.calibration_error import equal_mass, equal_width
from sparsify_cli.maths.classwise_calibration import classwise_contributions, classwise_level
from sparsify_cli.metrics.classwise_ece import ClasswiseECE
from sparsify_cli.metrics.ece import ECE
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, said, shuffled


def report(metric, *sides) -> Report:
    """The findings of a compressed model and, where there is one, a dense one."""
    return Report(tuple(metric.measure(Evidence(*((side,) for side in sides)))))


def value(model, **options) -> float:
    """Classwise ECE of one model."""
    return report(ClasswiseECE(least=1, **options), model).get("classwise_ece").value


def drawn(n=200, outputs=4, seed=5, scale=2.0) -> Predictions:
    """Random predictions of several classes."""
    logits = torch.randn(n, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return Predictions(logits, torch.arange(n) % outputs, tuple(map(str, range(n))), {"side": tuple("ab"[i % 2] for i in range(n))})


def calibrated(n, seed, off=0.0) -> Predictions:
    """Two classes; the answer is right with the stated probability less `off` of its distance from 1/2."""
    generator = torch.Generator().manual_seed(seed)
    p = 0.5 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)
    wrong = torch.rand(n, generator=generator, dtype=torch.float64) > p - off * (p - 0.5)
    return Predictions(torch.stack([p.log(), (1 - p).log()], dim=1), wrong.long(), tuple(map(str, range(n))))


def slow(model, bins, by_mass=False):
    """Class by class, bin by bin, sample by sample."""
    rows, truth, total = model.probabilities.tolist(), model.targets.tolist(), 0.0
    for label in range(len(rows[0])):
        column = [row[label] for row in rows]
        for bin_of in range(bins):
            place = [sum(q < p for q in column) * bins // len(column) if by_mass else min(int(p * bins), bins - 1) for p in column]
            members = [i for i, at in enumerate(place) if at == bin_of]
            total += abs(sum(column[i] - (truth[i] == label) for i in members)) / len(rows)
    return total / len(rows[0])


def test_by_hand():
    """(.5, .3, .2) twice, truths 0 and 1: class 0 |.5 - .5|, class 1 |.3 - .5|, class 2 |.2 - 0|: mean of 0, .2, .2."""
    assert value(said([[0.5, 0.3, 0.2]] * 2, [0, 1])) == pytest.approx(0.4 / 3)


def test_it_sees_what_the_predicted_label_hides():
    """Truths 0 and 2 in equal parts with (.5, .5 - e, e): the answer is calibrated, the rest is not."""
    model = said([[0.5, 0.49, 0.01]] * 2, [0, 2])
    assert report(ECE(least=1), model).get("ece").value == pytest.approx(0.0) and value(model) == pytest.approx(0.98 / 3)


@pytest.mark.parametrize("binning", ["equal-width", "equal-mass"])
@pytest.mark.parametrize("bins", [1, 7, 10])
def test_it_agrees_with_a_slow_loop(binning, bins):
    """Random predictions of four classes."""
    model = drawn(60)
    assert value(model, bins=bins, binning=binning) == pytest.approx(slow(model, bins, binning == "equal-mass"), abs=1e-12)


def test_equal_confidences_share_a_bin_of_equal_mass():
    """Twenty equal rows are one bin however many are asked for: |.5 - .5| in all, and the definition says which bins."""
    model = said([[0.5, 0.5]] * 20, [0, 1] * 10)
    found = report(ClasswiseECE(bins=5, binning="equal-mass"), model).get("classwise_ece")
    assert found.value == pytest.approx(0.0) and "5 equal-mass bins" in found.definition


def test_of_an_attribute_it_is_the_calibration_error_of_yes():
    """p(yes) = .3 for ten samples, of which five are a yes: .2; the mean over two such attributes is .2 as well."""
    logits = torch.full((10, 2), 0.3, dtype=torch.float64).logit()
    model = Predictions(logits, torch.tensor([[1, 0], [0, 1]] * 5), tuple(map(str, range(10))), {}, ("a", "b"))
    assert value(model.of_attribute(0)) == pytest.approx(0.2) and value(model) == pytest.approx(0.2)


def test_base_rate_and_perfect_predictors_are_calibrated():
    """The base rates for everybody, and certainty that is right: 0; always sure of one class: off by 2/3, 1/3, 1/3."""
    truth = [0, 1, 2] * 20
    assert value(said([[1 / 3] * 3] * 60, truth)) == pytest.approx(0.0, abs=1e-12)
    assert value(answering(truth, truth, sure=1.0)) == pytest.approx(0.0, abs=1e-12)
    assert value(answering([0] * 60, truth, sure=1.0)) == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)


def test_renaming_the_labels_changes_nothing():
    """Classes in another order have the same mean."""
    model, order = drawn(), torch.tensor([2, 0, 3, 1])
    other = Predictions(model.logits[:, order.argsort()], order[model.targets], model.ids)
    assert value(other) == pytest.approx(value(model), abs=1e-12)


def test_the_order_of_samples_does_not_matter():
    """Shuffled: the same findings, but for rounding."""
    order = torch.randperm(200).tolist()
    first, second = (report(ClasswiseECE(), one).get("classwise_ece") for one in (drawn(), shuffled(drawn(), order)))
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)


def test_the_level_of_a_perfect_model_is_what_it_shows():
    """400 calibrated models of 300 samples: their mean is the level within 5 %, and 90 to 99.5 % stay below the quantile."""
    shown, levels = [], []
    for seed in range(400):
        model = calibrated(300, seed)
        shown.append(float(classwise_contributions(model.probabilities, model.targets, equal_width, 10).mean()))
        levels.append(classwise_level(model.probabilities, equal_width, 10))
    assert sum(shown) == pytest.approx(sum(level[0] for level in levels), rel=0.05)
    assert 0.90 <= sum(s <= level[1] for s, level in zip(shown, levels, strict=True)) / 400 <= 0.995


def test_the_interval_reaches_zero_where_a_perfect_model_would_show_as_much():
    """A calibrated model: low is 0 and the note says the level; one that is far off: low is not 0."""
    near, far = (report(ClasswiseECE(), calibrated(300, 3, off)).get("classwise_ece") for off in (0.0, 1.0))
    assert near.low == 0 and "perfectly calibrated" in near.note and far.low > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("off", [0.0, 0.2, 0.5])
def test_the_interval_holds_the_truth(off):
    """The error of a model off by a share of its distance from 1/2 is a quarter of that; 100 test sets, 87 % at least."""
    found = [report(ClasswiseECE(), calibrated(500, seed, off)).get("classwise_ece") for seed in range(100)]
    assert sum(f.low <= off / 4 <= f.high for f in found) >= 87


def test_few_samples_and_several_models():
    """Nine samples: no number. Two models: the mean, and the note says what the interval leaves out."""
    assert report(ClasswiseECE(), said([[0.5, 0.5]] * 9, [0] * 9)).get("classwise_ece").value is None
    models = (drawn(seed=1), drawn(seed=2))
    found = ClasswiseECE().measure(Evidence(models))[0]
    assert found.value == pytest.approx(sum(map(value, models)) / 2) and "not of seeds" in found.note


def test_a_missing_class_counts_with_what_is_said_of_it():
    """No sample of class 2, which is given .1 everywhere: its error is .1."""
    model = said([[0.5, 0.4, 0.1]] * 10, [0, 1] * 5)
    assert value(model) == pytest.approx((0.0 + 0.1 + 0.1) / 3)
    assert equal_mass(torch.tensor([0.1, 0.1, 0.9], dtype=torch.float64), 3).tolist() == [0, 0, 2]
