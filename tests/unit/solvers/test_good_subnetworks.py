"""Good Subnetworks: which channel is taken first, counts, coefficients, and what is handed back."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.keep import top_k
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.good_subnetworks import GoodSubnetworks
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network


def network(seed=0, samples=40):
    """A small convolution and a linear layer in a network of 3 classes; labels are its own."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    inputs = torch.randn(samples, 3, 6, 6)
    with torch.no_grad():
        targets = module(inputs).argmax(1)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return Network(module, {"conv": "2.weight", "linear": "5.weight"}, inputs, targets, sparsity=Fraction(1, 2), seed=3, batch=16)


def keeping(counts):
    """The highest scores of each tensor."""
    return lambda scores, share: MaskSet({name: top_k(score.flatten(), counts[name]).view_as(score) for name, score in scores.items()})


def globally(scores, share):
    """Half of the weights, whichever tensors they are in."""
    flat = top_k(torch.cat([score.flatten() for score in scores.values()]), sum(score.numel() for score in scores.values()) // 2)
    parts = flat.split([score.numel() for score in scores.values()])
    return MaskSet({name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)})


@pytest.mark.parametrize("objective", ["loss", "imitation"])
def test_one_channel_is_the_best_one(objective):
    """With all samples and all candidates in view, the channel that stays alone, eight times as large, has the lowest objective."""
    given = network()
    dense = given.weights()["conv"]
    outputs = given.module(given.inputs)
    found = GoodSubnetworks(objective=objective, screened=0, tuning=0).solve_network(given, keeping({"conv": 54, "linear": 72}), Pattern())
    losses = []
    for channel in range(8):
        given.put({"conv": 8 * dense * (torch.arange(8) == channel)[:, None, None], "linear": found.weights["linear"]})
        now = given.module(given.inputs)
        losses.append(float((now - outputs).square().mean() if objective == "imitation" else functional.cross_entropy(now, given.targets)))
    assert found.masks["conv"].sum((0, 2, 3)).nonzero().flatten().tolist() == [losses.index(min(losses))]
    assert bool(found.masks["linear"].all())


@pytest.mark.parametrize("repeats", [False, True])
def test_coefficients_are_counts(repeats):
    """Untuned weights are the dense ones times whole numbers / n times the number of channels, or the dense ones themselves."""
    given = network()
    dense = given.weights()
    options = {"repeats": repeats, "tuning": 0, "screened": 2, "samples": 16}
    found = GoodSubnetworks(**options).solve_network(given, keeping({"conv": 4 * 54, "linear": 30}), Pattern())
    channels = found.masks["conv"].sum((0, 2, 3))
    ratio = (found.weights["conv"] / dense["conv"]).mean((0, 2, 3))[channels > 0]
    assert sorted(channels.tolist()) == [0] * 4 + [54] * 4
    counts = ratio / ratio.min()
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-4)
    assert bool((ratio == 1).all()) or float(ratio.sum()) == pytest.approx(8, abs=1e-4)


def test_the_last_channel_is_cut_by_magnitude():
    """30 weights of 24 channels with 3 each are 10 whole ones; 31 are one more, its largest."""
    found = GoodSubnetworks(tuning=0).solve_network(network(), keeping({"conv": 54, "linear": 31}), Pattern())
    sizes, mask = network().weights()["linear"].abs(), found.masks["linear"]
    assert sorted(mask.sum(0).tolist()) == [0] * 13 + [1] + [3] * 10
    last = mask.sum(0).tolist().index(1)
    assert bool(mask[sizes[:, last].argmax(), last])


def test_tensors_that_compete_keep_their_counts():
    """Under a global budget the final masks are whole channels, up to the last of each tensor."""
    given = network()
    found = GoodSubnetworks(tuning=0).solve_network(given, globally, Pattern())
    assert found.masks.kept == (432 + 72) // 2
    for name, whole in (("conv", 54), ("linear", 3)):
        channels = found.masks[name].movedim(1, 0).flatten(1).sum(1)
        assert int(((channels > 0) & (channels < whole)).sum()) <= 1


def test_tuning_lowers_the_loss():
    """More steps, less loss; what is handed back is never worse than the channels as they were."""
    counts = keeping({"conv": 4 * 54, "linear": 36})
    given, losses = network(), []
    for tuning in (0, 30):
        given = network()
        given.put(GoodSubnetworks(tuning=tuning).solve_network(network(), counts, Pattern()).weights)
        losses.append(float(given.loss(given.inputs, given.targets)))
    assert losses[1] < losses[0]


def test_a_network_without_a_loss_is_refused():
    """NaN in the inputs leaves no number to compare."""
    given = network()
    given.inputs[0, 0, 0, 0] = float("nan")
    with pytest.raises(Anomalous, match="not a number"):
        GoodSubnetworks(tuning=2).solve_network(given, keeping({"conv": 54, "linear": 36}), Pattern())
