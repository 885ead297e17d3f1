"""Under-training: loss and entropy on training samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsify_cli.stages.undertraining import Fit, fall, fit, verdict
from sparsify_cli.values.samples import Samples


def constant(*logits: float) -> nn.Module:
    """A network that gives every sample the same logits."""
    layer = nn.Linear(2, len(logits))
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor(logits)
    return layer


def samples(labels: list[int]) -> Samples:
    """As many samples as labels."""
    return Samples(torch.randn(len(labels), 2), torch.tensor(labels), tuple(map(str, range(len(labels)))))


def test_uniform_predictions() -> None:
    """Three equal logits: loss and entropy ln 3, whatever the labels."""
    found = fit(constant(1.0, 1.0, 1.0), samples([0, 1, 2, 2]))
    assert (found.loss, found.entropy, found.count) == (pytest.approx(math.log(3)), pytest.approx(math.log(3)), 4)


def test_certain_predictions() -> None:
    """One class for sure: no entropy; a loss of 0 where it is right."""
    found = fit(constant(60.0, 0.0), samples([0, 0]))
    assert (found.loss, found.entropy) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


def test_entropy_does_not_look_at_labels() -> None:
    """Other labels, other loss, the same entropy; p = 0.8 and 0.2."""
    right, wrong = (fit(constant(math.log(4), 0.0), samples([label] * 3)) for label in (0, 1))
    assert right.entropy == wrong.entropy == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2), rel=1e-5)
    assert (right.loss, wrong.loss) == (pytest.approx(-math.log(0.8), rel=1e-5), pytest.approx(-math.log(0.2), rel=1e-5))


@pytest.mark.parametrize(
    ("sparse", "dense", "is_said"),
    [((0.30, 0.39), (0.05, 0.13), True), ((0.09, 0.39), (0.05, 0.13), False), ((0.30, 0.17), (0.05, 0.13), False)],
)
def test_both_must_exceed(sparse: tuple[float, float], dense: tuple[float, float], is_said: bool) -> None:
    """A verdict needs a higher loss and a higher entropy, by more than 0.05 nats each; the sentence has the numbers."""
    said = verdict(Fit(*sparse, 100), Fit(*dense, 100))
    assert bool(said) == is_said
    assert not is_said or ("0.3 nats" in said and "0.39" in said)


def test_how_far_the_loss_still_fell() -> None:
    """Of eight epochs at the last sparsity the mean of the last two beside that of the two before; earlier ones do not count."""
    early = [{"loss": 9.0, "sparsity": 0.5}] * 3
    late = [{"loss": loss, "sparsity": 0.9} for loss in (4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 2.0)]
    assert fall([*early, *late]) == pytest.approx(0.25)
    assert fall([*early, *late[:3]]) is None and fall([]) is None
    said = verdict(Fit(0.3, 0.39, 100), Fit(0.05, 0.13, 100), 0.25)
    assert "still fell by 25.0%" in said
    assert "no longer fell" in verdict(Fit(0.3, 0.39, 100), Fit(0.05, 0.13, 100), -0.01)
