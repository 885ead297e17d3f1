"""Smooth calibration error by hand and against direct quadrature."""

import math
from statistics import NormalDist

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.maths.smooth_calibration import calibrated_smooth_level, cosines, smooth_contributions, smooth_ece, smoothed
from sparsify_cli.metrics.smooth_ece import SmoothECE
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, said, shuffled


def report(metric, *sides) -> Report:
    """The findings of a compressed model and, where there is one, a dense one."""
    return Report(tuple(metric.measure(Evidence(*((side,) for side in sides)))))


def drawn(n, seed=0, off=0.0):
    """Confidences above 1/2, right with a probability that is `off` of the distance from 1/2 lower."""
    generator = torch.Generator().manual_seed(seed)
    f = 0.5 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)
    return f, torch.rand(n, generator=generator, dtype=torch.float64) < f - off * (f - 0.5)


def model(n, seed=0, off=0.0) -> Predictions:
    """The same as a model of two classes that always answers the first."""
    f, correct = drawn(n, seed, off)
    return Predictions(torch.stack([f.log(), (1 - f).log()], dim=1), (~correct).long(), tuple(map(str, range(n))))


def density(t, at, width):
    """The normal density reflected at 0 and 1: the sum over all mirror images that matter."""
    images = torch.tensor([sign * at + 2 * k for k in range(-6, 7) for sign in (1, -1)], dtype=torch.float64)
    return (torch.exp(-(((t[:, None] - images) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))).sum(dim=1)


def error_at(f, correct, width, cells=2000):
    """The integral of |smoothed residual| by the midpoint rule."""
    t = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    field = sum(density(t, at, width) * (at - right) for at, right in zip(f.tolist(), correct.tolist(), strict=True)) / len(f)
    return float(field.abs().mean())


def slow(f, correct):
    """Where that integral equals the width, by bisection."""
    low, high = 1e-4, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if error_at(f, correct, middle) > middle else (low, middle)
    return (low + high) / 2


def test_one_confidence_by_hand():
    """All at .8, half of them right: the residual has one sign everywhere, so its integral is .3 at any width."""
    f = torch.full((20,), 0.8, dtype=torch.float64)
    assert smooth_ece(f, torch.arange(20) < 10) == pytest.approx(0.3, abs=1e-9)


def test_two_opposite_residuals_by_hand():
    """+.25 at 1/4 and -.25 at 3/4 cancel where they cross the middle: s = .25 (1 - 2 P(crossing)), P from the images (1/2, 3/2) + 2k."""

    def crossing(width):
        below = NormalDist(0.25, width).cdf
        return sum(below(1.5 + 2 * k) - below(0.5 + 2 * k) for k in range(-3, 4))

    low, high = 1e-3, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.25 * (1 - 2 * crossing(middle)) > middle else (low, middle)
    f = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert smooth_ece(f, torch.tensor([0.0, 1.0])) == pytest.approx(low, abs=1e-6)


@pytest.mark.parametrize(("n", "seed", "off"), [(5, 0, 0.0), (40, 1, 0.0), (40, 2, 0.8), pytest.param(150, 3, 0.3, marks=pytest.mark.slow)])
def test_it_agrees_with_direct_quadrature(n, seed, off):
    """Random samples: the same fixed point within .00005, the resolution of the slow bisection."""
    f, correct = drawn(n, seed, off)
    assert smooth_ece(f, correct) == pytest.approx(slow(f, correct), abs=5e-5)


@pytest.mark.parametrize("width", [0.01, 0.1, 0.7])
def test_smoothing_is_the_reflected_gaussian(width):
    """A unit of residual in one of 256 cells spreads as the density with its mirror images."""
    field = torch.zeros(256, dtype=torch.float64)
    field[20] = 1.0
    t = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    expected = density(t, float(t[20]), width) / 256
    assert torch.allclose(smoothed(cosines(field), width), expected, atol=1e-9)


def test_perfect_and_hopeless():
    """Certain and right: 0 without an interval; certain and wrong: 1."""
    truth = [0, 1, 2] * 20
    right = report(SmoothECE(), answering(truth, truth, sure=1.0)).get("smooth_ece")
    assert right.value == pytest.approx(0.0, abs=1e-12)
    wrong = report(SmoothECE(), answering([(t + 1) % 3 for t in truth], truth, sure=1.0)).get("smooth_ece")
    assert wrong.value == pytest.approx(1.0)


def test_the_base_rate_predictor_is_calibrated():
    """.6 for everybody, .6 of them right: 0."""
    assert smooth_ece(torch.full((50,), 0.6, dtype=torch.float64), torch.arange(50) < 30) == pytest.approx(0.0, abs=1e-12)


def test_it_does_not_jump_where_bins_do():
    """Confidences of .7 moved by a millionth to either side of a bin's edge change it by no more than a few millionths."""
    correct = torch.arange(40) < 20
    f = torch.cat([torch.full((20,), 0.7), torch.full((20,), 0.7)]).double()
    apart = torch.where(correct, f + 1e-6, f - 1e-6)
    assert smooth_ece(apart, correct) == pytest.approx(smooth_ece(f, correct), abs=5e-6)


def test_contributions_average_to_it_and_have_its_spread():
    """Contributions have the spread of 150 repeated test sets within 20 %."""
    repeated = torch.tensor([smooth_ece(*drawn(400, seed, 0.6)) for seed in range(150)])
    each = smooth_contributions(*drawn(400, 1, 0.6))
    assert float(each.mean()) == pytest.approx(smooth_ece(*drawn(400, 1, 0.6)), abs=1e-12)
    assert float(each.std()) / 20 == pytest.approx(float(repeated.std()), rel=0.2)


def test_the_level_of_a_perfect_model_is_what_it_shows():
    """100 calibrated models of 300 samples: their mean is the level within 10 %."""
    shown = [smooth_ece(*drawn(300, seed)) for seed in range(100)]
    usual, most = calibrated_smooth_level(drawn(300)[0])
    assert sum(shown) / 100 == pytest.approx(usual, rel=0.1)
    assert 88 <= sum(s <= most for s in shown) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("off", [0.0, 0.5])
def test_the_interval_holds_the_truth(off):
    """The error of 400,000 samples is in 50 of 60 intervals at least (0 where there is none)."""
    truth = smooth_ece(*drawn(400_000, 99, off)) if off else 0.0
    found = [report(SmoothECE(), model(400, seed, off)).get("smooth_ece") for seed in range(60)]
    assert sum(f.low <= truth <= f.high for f in found) >= 50


def test_the_order_of_samples_does_not_matter():
    """Shuffled: the same findings, but for rounding."""
    order = torch.randperm(200).tolist()
    first, second = (report(SmoothECE(), one).get("smooth_ece") for one in (model(200), shuffled(model(200), order)))
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)


def test_attributes_are_averaged():
    """Errors .3 and .1 of two attributes: .2; the level in the note is that of attributes, not of their largest probability."""
    logits = torch.tensor([[0.8, 0.6]] * 20, dtype=torch.float64).logit()
    targets = torch.stack([torch.arange(20) < 10, torch.arange(20) < 10], dim=1).long()
    both = Predictions(logits, targets, tuple(map(str, range(20))), {}, ("a", "b"))
    found = report(SmoothECE(), both).get("smooth_ece")
    levels = [calibrated_smooth_level(torch.full((20,), p, dtype=torch.float64))[0] for p in (0.8, 0.6)]
    assert found.value == pytest.approx(0.2, abs=1e-8) and f"{50 * sum(levels):.2f} %" in found.note


def test_few_samples_and_several_models():
    """Nine samples: no number. Two models: the mean of theirs."""
    assert report(SmoothECE(), said([[0.5, 0.5]] * 9, [0] * 9)).get("smooth_ece").value is None
    pair = model(100, 1), Predictions(model(100, 2).logits, model(100, 1).targets, model(100, 1).ids)
    alone = [report(SmoothECE(), one).get("smooth_ece").value for one in pair]
    assert SmoothECE().measure(Evidence(pair))[0].value == pytest.approx(sum(alone) / 2)
