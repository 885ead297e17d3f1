"""Change of confidence by hand."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.confidence_shift import ConfidenceShift
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, said, shuffled


def report(*sides, **options) -> Report:
    """The findings of a compressed and a dense model."""
    return Report(tuple(ConfidenceShift(**options).measure(Evidence(*((side,) for side in sides)))))


def values(found, name, scope="all"):
    """(compressed, dense, change)."""
    return [found.get(name, of=of, scope=scope).value for of in ("compressed", "dense", "change")]


def test_by_hand():
    """Dense .6 / .4 and .3 / .7, compressed .9 / .1 and .8 / .2, truths 0 and 1: answers .85 - .65, truths .55 - .65."""
    found = report(said([[0.9, 0.1], [0.8, 0.2]], [0, 1]), said([[0.6, 0.4], [0.3, 0.7]], [0, 1]), least=1)
    assert values(found, "confidence_shift") == pytest.approx([0.85, 0.65, 0.2])
    assert values(found, "confidence_shift_true") == pytest.approx([0.55, 0.65, -0.1])


def test_an_attribute_that_is_unlikely_is_confident_too():
    """p(yes) .2, truth no: .8 for both; of two attributes the mean."""
    logits = torch.tensor([[0.2, 0.4]], dtype=torch.float64).logit()
    model = Predictions(logits, torch.tensor([[0, 1]]), ("s",), {}, ("a", "b"))
    found = report(model, model, least=1)
    assert values(found, "confidence_shift") == pytest.approx([0.7, 0.7, 0.0])
    assert values(found, "confidence_shift_true")[0] == pytest.approx((0.8 + 0.4) / 2)


def test_constant_and_perfect():
    """Certain and right: both 1; certain and wrong: 1 and 0."""
    truth = [0, 1, 2] * 10
    right, wrong = (answering([(t + k) % 3 for t in truth], truth, sure=1.0) for k in (0, 1))
    found = report(wrong, right)
    assert values(found, "confidence_shift") == pytest.approx([1.0, 1.0, 0.0])
    assert values(found, "confidence_shift_true") == pytest.approx([0.0, 1.0, -1.0], abs=1e-12)


def test_each_group_on_request():
    """Left .9 and right .5 of two samples each; a group of three among many has no number."""
    groups = {"side": ["left"] * 2 + ["right"] * 2}
    model = said([[0.9, 0.1]] * 2 + [[0.5, 0.5]] * 2, [0] * 4, groups=groups)
    found = report(model, model, per_scope=True, least=2)
    assert values(found, "confidence_shift", "group:side=left")[0] == pytest.approx(0.9)
    assert report(model, model, per_scope=True).get("confidence_shift", scope="group:side=left").value is None


def test_several_models_are_averaged_and_the_order_does_not_matter():
    """Two models of .9 and .7: .8; shuffled samples give the same change and interval."""
    sure, less = (said([[p, 1 - p]] * 20, [0] * 20) for p in (0.9, 0.7))
    found = ConfidenceShift().measure(Evidence((sure, less), (less,)))
    assert found[0].value == pytest.approx(0.8) and "not of seeds" in found[0].note
    p = torch.rand(2, 50, dtype=torch.float64)
    models = [said(torch.stack([q, 1 - q], dim=1).tolist(), [0, 1] * 25) for q in p]
    order = torch.randperm(50).tolist()
    first, second = report(*models), report(*(shuffled(one, order) for one in models))
    for a, b in zip(first, second, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)


def test_it_needs_a_dense_model():
    """Without one there is no shift."""
    assert ConfidenceShift().needs == {"dense"}


@pytest.mark.slow
def test_the_interval_of_the_change_holds_the_truth():
    """A shift of .05 among noise: in 90 to 99 of 100 intervals."""
    hits = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        before = 0.6 + 0.2 * torch.rand(80, generator=generator, dtype=torch.float64)
        after = before + 0.1 * torch.rand(80, generator=generator, dtype=torch.float64)
        models = [said(torch.stack([q, 1 - q], dim=1).tolist(), [0] * 80) for q in (after, before)]
        change = report(*models).get("confidence_shift", of="change")
        hits += change.low <= 0.05 <= change.high
    assert 90 <= hits <= 99
