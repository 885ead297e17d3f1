"""Area under the risk-coverage curve by hand and against a slow loop."""

import pytest
import torch
from hypothesis import given

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.maths.risk_coverage import risk_coverage_contributions
from sparsify_cli.metrics.risk_coverage import RiskCoverage
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, model_pairs, said, shuffled


def report(metric, *sides) -> Report:
    """The findings of a compressed model and, where there is one, a dense one."""
    return Report(tuple(metric.measure(Evidence(*((side,) for side in sides)))))


def area(confidence, correct) -> float:
    """The area from plain lists."""
    return float(risk_coverage_contributions(torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct)).mean())


def slow(confidence, correct) -> float:
    """Each sample's own confidence as the threshold: risk among those at least as confident, averaged."""
    risks = []
    for threshold in confidence:
        kept = [right for c, right in zip(confidence, correct, strict=True) if c >= threshold]
        risks.append(1 - sum(kept) / len(kept))
    return sum(risks) / len(risks)


def drawn(n, seed=0, noise=1.0) -> Predictions:
    """Three classes in unequal parts."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), n, replacement=True, generator=generator)
    logits = 2 * torch.nn.functional.one_hot(targets, 3) + noise * torch.randn(n, 3, generator=generator)
    return Predictions(logits, targets, tuple(map(str, range(n))))


def test_by_hand():
    """Right, wrong, right by falling confidence: risks 0, 1/2, 1/3: 5/18."""
    assert area([0.9, 0.8, 0.7], [True, False, True]) == pytest.approx(5 / 18)


def test_equal_confidences_are_covered_together():
    """.9 right; .8 twice, one right: risks 0, 1/3, 1/3 in whichever order the two stand."""
    assert area([0.9, 0.8, 0.8], [True, True, False]) == pytest.approx(2 / 9)
    assert area([0.9, 0.8, 0.8], [True, False, True]) == pytest.approx(2 / 9)


def test_constant_confidence_gives_the_error_rate():
    """One confidence for all: nothing can be told apart."""
    assert area([0.7] * 10, [True] * 7 + [False] * 3) == pytest.approx(0.3)


def test_order_of_confidence_decides():
    """One wrong of four: last it costs 1/4 / 4, first (1 + 1/2 + 1/3 + 1/4) / 4; perfect 0, hopeless 1."""
    assert area([0.9, 0.8, 0.7, 0.6], [True, True, True, False]) == pytest.approx(1 / 16)
    assert area([0.9, 0.8, 0.7, 0.6], [False, True, True, True]) == pytest.approx(25 / 48)
    assert area([0.9, 0.8], [True, True]) == 0.0 and area([0.9, 0.8], [False, False]) == pytest.approx(1.0)


@given(model_pairs())
def test_it_agrees_with_a_slow_loop(pair):
    """Models with many tied confidences."""
    model = pair.build()[0]
    confidence = model.probabilities.amax(dim=1)
    expected = slow(confidence.tolist(), model.correct.tolist())
    assert float(risk_coverage_contributions(confidence, model.correct).mean()) == pytest.approx(expected, abs=1e-12)


def test_contributions_have_the_right_spread():
    """Leaving each sample out in turn: the jackknife's standard error, within 3 %."""
    model = drawn(500)
    confidence, correct = model.probabilities.amax(dim=1), model.correct
    each = risk_coverage_contributions(confidence, correct)
    kept = [torch.arange(500) != i for i in range(500)]
    without = torch.stack([risk_coverage_contributions(confidence[k], correct[k]).mean() for k in kept])
    assert float((each.var() / 500).sqrt()) == pytest.approx(float((without.var() * 499**2 / 500).sqrt()), rel=0.03)


def test_findings_of_two_models():
    """Compressed is wrong where it is sure, dense where it is not: 25/48 and 1/16, and their difference."""
    sure = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    compressed, dense = said(sure, [1, 0, 0, 0]), said([*sure[1:], sure[0]], [1, 0, 0, 0])
    dense = Predictions(torch.tensor(sure[::-1]).log(), torch.tensor([1, 0, 0, 0]), dense.ids)
    found = report(RiskCoverage(least=1), compressed, dense)
    values = [found.get("risk_coverage", of=of).value for of in ("compressed", "dense", "change")]
    assert values == pytest.approx([25 / 48, 1 / 16, 25 / 48 - 1 / 16], abs=1e-6)


def test_attributes_and_models_are_averaged():
    """Error rates 1/2 and 0 of two attributes with constant confidence: 1/4; two models 1/4 and 1/4 of them as well."""
    logits, targets = torch.full((20, 2), 1.0), torch.stack([torch.arange(20) % 2, torch.ones(20, dtype=torch.int64)], dim=1)
    model = Predictions(logits, targets, tuple(map(str, range(20))), {}, ("a", "b"))
    assert report(RiskCoverage(), model).get("risk_coverage").value == pytest.approx(0.25)
    found = RiskCoverage().measure(Evidence((model, model)))[0]
    assert found.value == pytest.approx(0.25) and "not of seeds" in found.note


def test_perfect_answers_claim_no_interval():
    """All right: 0, and no interval that would say it is certain; nine samples: no number."""
    truth = [0, 1, 2] * 10
    found = report(RiskCoverage(), answering(truth, truth)).get("risk_coverage")
    assert found.value == 0 and found.low is None and "no spread" in found.note
    assert report(RiskCoverage(), answering([0] * 9, [0] * 9)).get("risk_coverage").value is None


def test_the_order_and_the_labels_do_not_matter():
    """Shuffled samples, renamed classes: the same number."""
    model, order = drawn(150), torch.tensor([2, 0, 1])
    renamed = Predictions(model.logits[:, order.argsort()], order[model.targets], model.ids)
    mixed = shuffled(model, torch.randperm(150).tolist())
    numbers = [report(RiskCoverage(), one).get("risk_coverage") for one in (model, renamed, mixed)]
    for other in numbers[1:]:
        assert (other.value, other.low, other.high) == pytest.approx((numbers[0].value, numbers[0].low, numbers[0].high), abs=1e-12)


@pytest.mark.slow
def test_the_interval_holds_the_truth():
    """Of 200 test sets of 200 samples 89 to 98 % of the intervals hold the area of 400,000 samples."""
    big = drawn(400_000, 10**6, 2.0)
    truth = float(risk_coverage_contributions(big.probabilities.amax(dim=1), big.correct).mean())
    found = [report(RiskCoverage(), drawn(200, seed, 2.0)).get("risk_coverage") for seed in range(200)]
    assert 0.89 <= sum(f.low <= truth <= f.high for f in found) / 200 <= 0.98
