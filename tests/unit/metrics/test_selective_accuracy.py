"""Accuracy on the most confident samples by hand and against a slow loop."""

import math

import pytest
import torch
from hypothesis import given

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.maths.risk_coverage import answered, selective_contributions
from sparsify_cli.metrics.selective_accuracy import SelectiveAccuracy
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, model_pairs, shuffled


def report(metric, *sides) -> Report:
    """The findings of a compressed model and, where there is one, a dense one."""
    return Report(tuple(metric.measure(Evidence(*((side,) for side in sides)))))


def kept(confidence, correct, coverage) -> float:
    """The accuracy from plain lists."""
    return float(selective_contributions(torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct), coverage).mean())


def slow(confidence, correct, coverage) -> float:
    """Answer the surest first; of those at the cut each in part."""
    k = math.ceil(coverage * len(confidence) - 1e-9)
    cut = sorted(confidence, reverse=True)[k - 1]
    above = [right for c, right in zip(confidence, correct, strict=True) if c > cut]
    tied = [right for c, right in zip(confidence, correct, strict=True) if c == cut]
    return (sum(above) + (k - len(above)) * sum(tied) / len(tied)) / k


def drawn(n, seed=0, noise=2.0) -> Predictions:
    """Three classes in unequal parts."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), n, replacement=True, generator=generator)
    logits = 2 * torch.nn.functional.one_hot(targets, 3) + noise * torch.randn(n, 3, generator=generator)
    return Predictions(logits, targets, tuple(map(str, range(n))))


def test_by_hand():
    """Of five the surest four: right, right, wrong, right: 3/4; the fifth does not count; at full coverage 4/5."""
    confidence, correct = [0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, True, True]
    assert kept(confidence, correct, 0.8) == pytest.approx(3 / 4) and kept(confidence, correct, 1.0) == pytest.approx(4 / 5)


def test_equal_confidences_at_the_cut_count_in_part():
    """One sure and right, two equal of which one is right, two of three answered: (1 + 1/2) / 2 in either order."""
    assert kept([0.9, 0.5, 0.5], [True, True, False], 2 / 3) == pytest.approx(0.75)
    assert kept([0.9, 0.5, 0.5], [True, False, True], 2 / 3) == pytest.approx(0.75)


def test_constant_confidence_gives_the_accuracy():
    """Nothing can be told apart: 7 of 10 at any coverage."""
    assert [kept([0.7] * 10, [True] * 7 + [False] * 3, c) for c in (0.1, 0.8, 1.0)] == pytest.approx([0.7] * 3)


@pytest.mark.parametrize(("n", "coverage", "expected"), [(10, 0.8, 8), (11, 0.8, 9), (3, 0.01, 1), (7, 1.0, 7), (1000, 0.3, 300)])
def test_how_many_are_answered(n, coverage, expected):
    """Rounded up, whatever a binary float makes of the coverage."""
    assert answered(n, coverage) == expected


@given(model_pairs())
def test_it_agrees_with_a_slow_loop(pair):
    """Models with many tied confidences, at 80 and 33 %."""
    model = pair.build()[0]
    confidence = model.probabilities.amax(dim=1)
    for coverage in (0.8, 0.33):
        expected = slow(confidence.tolist(), model.correct.tolist(), coverage)
        assert float(selective_contributions(confidence, model.correct, coverage).mean()) == pytest.approx(expected, abs=1e-12)


def test_findings_of_two_models():
    """Ten samples, two wrong: where the compressed model is surest 6/8, where the dense one is least sure 8/8; n is 8."""
    sure = torch.linspace(0.95, 0.6, 10, dtype=torch.float64)
    logits = torch.stack([sure.log(), (1 - sure).log()], dim=1)
    targets, ids = torch.tensor([1, 1] + [0] * 8), tuple(map(str, range(10)))
    found = report(SelectiveAccuracy(), Predictions(logits, targets, ids), Predictions(logits.flip(0), targets, ids))
    seen = [found.get("selective_accuracy", of=of) for of in ("compressed", "dense", "change")]
    assert [f.value for f in seen] == pytest.approx([0.75, 1.0, -0.25]) and {f.n for f in seen} == {8}
    assert "80 %" in seen[0].definition


def test_attributes_and_models_are_averaged():
    """Accuracies 1/2 and 1 of two attributes with constant confidence: 3/4."""
    logits, targets = torch.full((20, 2), 1.0), torch.stack([torch.arange(20) % 2, torch.ones(20, dtype=torch.int64)], dim=1)
    model = Predictions(logits, targets, tuple(map(str, range(20))), {}, ("a", "b"))
    found = SelectiveAccuracy().measure(Evidence((model, model)))[0]
    assert found.value == pytest.approx(0.75) and "not of seeds" in found.note


def test_perfect_answers_claim_no_interval():
    """All right: 1, no interval; nine samples: no number."""
    truth = [0, 1, 2] * 10
    found = report(SelectiveAccuracy(), answering(truth, truth)).get("selective_accuracy")
    assert found.value == 1 and found.low is None and "no spread" in found.note
    few = report(SelectiveAccuracy(), answering([0] * 9, [0] * 9)).get("selective_accuracy")
    assert few.value is None and "9 samples" in few.note


def test_the_order_of_samples_does_not_matter():
    """Shuffled: the same number and interval."""
    pair = (
        report(SelectiveAccuracy(), one).get("selective_accuracy")
        for one in (drawn(150), shuffled(drawn(150), torch.randperm(150).tolist()))
    )
    first, second = pair
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)


@pytest.mark.slow
def test_the_interval_holds_the_truth():
    """Of 200 test sets of 200 samples 90 to 98.5 % of the intervals hold the accuracy of 400,000 samples."""
    big = drawn(400_000, 10**6)
    truth = float(selective_contributions(big.probabilities.amax(dim=1), big.correct, 0.8).mean())
    found = [report(SelectiveAccuracy(), drawn(200, seed)).get("selective_accuracy") for seed in range(200)]
    assert 0.90 <= sum(f.low <= truth <= f.high for f in found) / 200 <= 0.985
