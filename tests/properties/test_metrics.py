"""What holds for every pair of models: ranges, invariances, and what perfect and constant predictors get."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.maths.intervals import tango, wilson
from sparsify_cli.metrics.accuracy import Accuracy
from sparsify_cli.metrics.auc import AUC
from sparsify_cli.metrics.brier import Brier
from sparsify_cli.metrics.churn import Churn
from sparsify_cli.metrics.ece import ECE
from sparsify_cli.metrics.exemplars import Exemplars
from sparsify_cli.metrics.nll import NLL
from sparsify_cli.metrics.uncertainty import Uncertainty
from sparsify_cli.values.predictions import Predictions
from tests.predictions import model_pairs

RANGES = {Accuracy: 1.0, AUC: 1.0, Brier: 2.0, ECE: 1.0, NLL: math.inf, Uncertainty: 1.0}
BINNINGS = st.sampled_from(["equal-width", "equal-mass"])


def first(metric, *models):
    """Value over all samples of the first finding; models are (compressed,) or (compressed, dense)."""
    return metric.measure(Evidence(*((model,) for model in models)))[0].value


def with_logits(model, logits):
    """The same samples, other outputs."""
    return Predictions(logits, model.targets, model.ids, model.groups, model.classes)


@given(model_pairs())
@pytest.mark.parametrize("kind", RANGES)
def test_values_and_intervals_stay_in_range(kind, pair):
    """0 <= low <= value <= high <= the most a metric can be; changes stay within the range either way."""
    pair = pair.build()
    for f in kind().measure(Evidence((pair[0],), (pair[1],))):
        floor = -RANGES[kind] if f.of == "change" else 0.0
        if f.value is not None:
            low, high = (f.value, f.value) if f.low is None else (f.low, f.high)
            assert f.value >= floor - 1e-9 and f.value <= RANGES[kind] + 1e-9 and low <= f.value <= high
            assert f.of == "change" or (low >= 0 and high <= RANGES[kind])


@given(model_pairs(), st.floats(-50, 50))
@pytest.mark.parametrize("kind", RANGES)
def test_adding_a_constant_to_all_logits_changes_nothing(kind, pair, shift):
    """Softmax does not see it; bins and thresholds may only be crossed by rounding, which the drawn logits avoid."""
    pair = pair.build()
    moved = with_logits(pair[0], pair[0].logits.double() + round(shift))
    assert first(kind(), moved) == pytest.approx(first(kind(), pair[0]), abs=1e-5)


@given(model_pairs(), st.floats(0.5, 4))
def test_sharpening_keeps_the_answers(pair, factor):
    """Multiplying the logits moves confidence, never accuracy, churn or exemplars."""
    pair = pair.build()
    sharp = with_logits(pair[0], pair[0].logits.double() * factor)
    assert first(Accuracy(), sharp) == first(Accuracy(), pair[0])
    assert first(Churn(), sharp, pair[0]) == 0 == first(Exemplars(), sharp, pair[0])


@given(model_pairs())
def test_a_perfect_model_gets_perfect_scores(pair):
    """Certain and right everywhere: accuracy and AUC 1, NLL, Brier, ECE and uncertainty 0."""
    pair = pair.build()
    sure = torch.nn.functional.one_hot(pair[0].targets, pair[0].logits.shape[1]) * 100.0
    perfect = with_logits(pair[0], sure)
    assert [first(kind(), perfect) for kind in (Accuracy, AUC)] == [1.0, 1.0]
    assert [first(kind(), perfect) for kind in (NLL, Brier, ECE, Uncertainty)] == pytest.approx([0] * 4, abs=1e-12)


@given(model_pairs())
def test_a_uniform_model_gets_the_scores_of_guessing(pair):
    """Equal probabilities: NLL ln K, Brier 1 - 1/K, AUC 1/2; it answers class 0, so ECE is |1/K - share of class 0|."""
    pair = pair.build()
    k = pair[0].logits.shape[1]
    uniform = with_logits(pair[0], torch.zeros_like(pair[0].logits))
    share = float((pair[0].targets == 0).double().mean())
    expected = [math.log(k), 1 - 1 / k, 0.5, abs(1 / k - share)]
    assert [first(kind(), uniform) for kind in (NLL, Brier, AUC, ECE)] == pytest.approx(expected)


@given(model_pairs())
def test_relabelling_classes_changes_no_overall_number(pair):
    """Reversing the class order of outputs and targets together keeps NLL, Brier, AUC and uncertainty."""
    pair = pair.build()
    model, last = pair[0], pair[0].logits.shape[1] - 1
    renamed = Predictions(model.logits.flip(1), last - model.targets, model.ids, model.groups, model.classes[::-1])
    kinds = (NLL, Brier, AUC, Uncertainty)
    assert [first(kind(), renamed) for kind in kinds] == pytest.approx([first(kind(), model) for kind in kinds])


@given(model_pairs())
def test_churn_bounds_the_change_of_accuracy(pair):
    """Accuracy cannot change by more than the share of changed answers."""
    pair = pair.build()
    change = first(Accuracy(), pair[0]) - first(Accuracy(), pair[1])
    assert abs(change) <= first(Churn(), *pair) + 1e-12


@given(model_pairs(), BINNINGS, st.integers(1, 20))
def test_one_bin_is_the_least_calibration_error(pair, binning, bins):
    """Splitting bins can only raise ECE above |mean confidence - accuracy| (triangle inequality)."""
    pair = pair.build()
    overall = abs(float(pair[0].probabilities.amax(dim=1).mean()) - first(Accuracy(), pair[0]))
    assert first(ECE(bins=bins, binning=binning), pair[0]) >= overall - 1e-12


@given(st.integers(1, 400), st.data())
def test_score_intervals_hold_their_value_and_shrink(n, data):
    """The observed share lies inside; ten times the samples give a narrower interval."""
    k = data.draw(st.integers(0, n))
    small, large = wilson(k, n), wilson(10 * k, 10 * n)
    assert 0 <= small.low <= k / n <= small.high <= 1
    assert large.high - large.low < small.high - small.low


@given(st.integers(1, 300), st.data())
def test_paired_intervals_hold_their_value_and_stay_in_range(n, data):
    """The observed difference lies inside, the ends inside [-1, 1]."""
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    found = tango(gained, lost, n)
    assert -1 <= found.low <= (gained - lost) / n <= found.high <= 1
