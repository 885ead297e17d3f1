"""Multiply-accumulates: closed forms of each kind of layer, and published shares of networks under Erdos-Renyi-Kernel."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from sparsify_cli.maths.allocate import Counted, erk, uniform
from sparsify_cli.maths.keep import keep_count
from sparsify_cli.maths.macs import macs_per_weight


def convolutions(layers):
    """(in, out, kernel, side of the output) -> layers with their uses, the first named `first`."""
    named = {f"layer{i:03}" if i else "first": entry for i, entry in enumerate(layers)}
    sized = [Counted(name, (o, i, k, k), o * i * k * k, o * i * k * k) for name, (i, o, k, _) in named.items()]
    return sized, [side * side for *_, side in named.values()]


def resnet20():
    """CIFAR ResNet-20 with parameter-free shortcuts."""
    stages = [(32, 16, 16), (16, 16, 32), (8, 32, 64)]
    blocks = [(before if first else o, o, 3, side) for side, before, o in stages for first in (True, *[False] * 5)]
    return convolutions([(3, 16, 3, 32), *blocks, (64, 10, 1, 1)])


def wide_resnet_22_2():
    """WRN-22-2: three groups of three blocks, a 1x1 shortcut where widths change."""
    stages = [(32, 16, 32), (16, 32, 64), (8, 64, 128)]
    blocks = [(before if first else o, o, 3, side) for side, before, o in stages for first in (True, *[False] * 5)]
    return convolutions([(3, 16, 3, 32), *blocks, *[(i, o, 1, side) for side, i, o in stages], (128, 10, 1, 1)])


def resnet50():
    """ResNet-50 v1.5: the stride of a block is in its 3x3 convolution."""
    layers, before, side = [(3, 64, 7, 112)], 64, 56
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        after = side if width == 64 else side // 2
        for block in range(blocks):
            layers += [(before, width, 1, after if block else side), (width, width, 3, after), (width, 4 * width, 1, after)]
            layers += [] if block else [(before, 4 * width, 1, after)]
            before = 4 * width
        side = after
    return convolutions([*layers, (2048, 1000, 1, 1)])


def share(network, sparsity, allocation=erk, *, first_dense=False):
    """Multiply-accumulates that remain, of the dense ones; a dense first layer is outside the sparsity."""
    layers, uses = network
    inside = layers[1:] if first_dense else layers
    counts = allocation(inside, keep_count(sum(layer.units for layer in inside), Fraction(sparsity)))
    kept = ([layers[0].units] if first_dense else []) + counts
    return sum(map(math.prod, zip(kept, uses, strict=True))) / total(network)


def total(network):
    """Multiply-accumulates of the dense network."""
    return sum(layer.units * times for layer, times in zip(*network, strict=True))


@pytest.mark.parametrize(
    ("network", "weights", "macs"),
    [(resnet20(), 268_336, 40.55e6), (wide_resnet_22_2(), 1_076_912, 157.7e6), (resnet50(), 25_502_912, 4.089e9)],
    ids=["resnet20", "wrn-22-2", "resnet50"],
)
def test_dense_networks(network, weights, macs):
    """Weights and multiply-accumulates of convolutions and classifier are the published ones."""
    assert sum(layer.units for layer in network[0]) == weights
    assert total(network) == pytest.approx(macs, rel=5e-4)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (resnet20(), {"0.8": 0.368, "0.9": 0.186, "0.95": 0.091, "0.98": 0.036}),
        (wide_resnet_22_2(), {"0.8": 0.352, "0.9": 0.174, "0.95": 0.088}),
        (resnet50(), {"0.8": 0.414, "0.9": 0.242, "0.95": 0.122, "0.965": 0.085}),
    ],
    ids=["resnet20", "wrn-22-2", "resnet50"],
)
def test_shares_of_erk(network, expected):
    """What remains of the multiply-accumulates under ERK, to the three digits of the reference."""
    assert {sparsity: share(network, sparsity) for sparsity in expected} == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (wide_resnet_22_2(), {"0.8": 0.202, "0.9": 0.103, "0.95": 0.053}),
        (resnet50(), {"0.8": 0.223, "0.9": 0.126, "0.95": 0.077, "0.965": 0.063}),
    ],
    ids=["wrn-22-2", "resnet50"],
)
def test_shares_of_uniform_with_a_dense_first_layer(network, expected):
    """What remains under uniform sparsity when the first layer is left out."""
    assert {s: share(network, s, uniform, first_dense=True) for s in expected} == pytest.approx(expected, abs=6e-4)


def test_resnet50_at_99_percent_and_its_dense_layers():
    """With a dense first layer whose zeros the others take over, .051 remains at 99 %; at 80 % eight 1x1 convolutions are dense."""
    layers, _ = network = resnet50()
    counts = erk(layers, keep_count(25_502_912, Fraction("0.8")))
    dense = [layer.shape for layer, count in zip(layers, counts, strict=True) if count == layer.units]
    held = [replace(layers[0], floor=layers[0].units), *layers[1:]]
    assert share((held, network[1]), "0.99") == pytest.approx(0.051, abs=6e-4)
    assert [shape[2:] for shape in dense].count((1, 1)) == 8


def test_linear_and_convolution():
    """A weight of a 3x3 convolution with padding 1 and stride 2 on 8x8 is used 16 times, a linear one once; of one sample, not two."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).train()
    assert macs_per_weight(net, torch.randn(2, 3, 8, 8)) == {"0.weight": 16, "3.weight": 1}
    assert net.training
    assert all(not part._forward_hooks for part in net.modules())


@pytest.mark.parametrize(
    ("layer", "sample", "uses"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), (4, 10), 8),
        (nn.Conv2d(4, 4, (3, 1), dilation=(2, 1), groups=4), (4, 9, 5), 25),
        (nn.Conv3d(1, 2, 2), (1, 3, 4, 5), 2 * 3 * 4),
        (nn.ConvTranspose1d(4, 2, 3, stride=2), (4, 5), 5),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 3, 7), 21),
        (nn.ConvTranspose3d(1, 2, 2), (1, 2, 3, 4), 24),
        (nn.Linear(3, 2), (7, 3), 7),
    ],
)
def test_closed_forms(layer, sample, uses):
    """Once at each output position; transposed once at each input position; rows for linear; groups change nothing."""
    assert macs_per_weight(nn.Sequential(layer), torch.randn(1, *sample)) == {"0.weight": uses}


def test_transposed_uses_equal_a_naive_count():
    """A transposed convolution without padding makes in x out/groups x kernel products at each input position: 4 * 3 * 9 * 21."""
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    assert macs_per_weight(layer, torch.randn(1, 4, 3, 7))["weight"] * layer.weight.numel() == 4 * 3 * 9 * 21


class Twice(nn.Module):
    """One linear layer on 2 rows and again on 3; another shares its weight and sees 1; a third is never called."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.first(x[:, :2]).sum() + self.first(x[:, :3]).sum() + self.second(x[:, :1]).sum()


def test_calls_add_up():
    """Called with 2 and 3 rows and shared with a layer of 1: 6 uses; what is not called is absent."""
    assert macs_per_weight(Twice(), torch.randn(5, 3, 4)) == {"first.weight": 6}


def test_attention_projects_every_token():
    """Five tokens: each projection of attention and of its feed-forward layers is used five times, in eval mode too."""
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    names = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    assert macs_per_weight(block, torch.randn(3, 5, 8)) == dict.fromkeys(names, 5)


def test_a_failing_pass_leaves_no_hooks():
    """Inputs that do not fit raise, and the module is as before."""
    net = nn.Sequential(nn.Linear(4, 2)).train()
    with pytest.raises(RuntimeError):
        macs_per_weight(net, torch.randn(1, 3))
    assert net.training
    assert not net[0]._forward_hooks


def test_padding_in_torchs_encoder_counts_as_tokens():
    """In eval mode torch's encoder would cut padding out of its tensors; all 2 x 5 tokens of both layers are counted, hidden or not."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.embed, self.encoder = nn.Embedding(9, 8), nn.TransformerEncoder(layer, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.encoder(self.embed(ids), src_key_padding_mask=ids == 0)

    found = macs_per_weight(Padded().eval(), torch.tensor([[3, 4, 5, 0, 0], [1, 2, 0, 0, 0]]))
    assert found["encoder.layers.1.linear1.weight"] == found["encoder.layers.0.self_attn.out_proj.weight"] == 5
    assert torch.backends.mha.get_fastpath_enabled()
