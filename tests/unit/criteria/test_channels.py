"""Importance of whole channels: by hand, against gates that are differentiated, and what is left when channels go."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsify_cli.criteria.channels import Channels
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.shrunk import shrinking
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats
from tests.shrunk_networks import shapes, trained_looking, without


class Residual(nn.Module):
    """Two blocks added to a stem, one with a depthwise layer, and a classifier; `gates` multiply what readers of the stream see."""

    def __init__(self, width: int = 6, inside: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.inner = nn.ModuleList([nn.Conv2d(width, inside, 3, padding=1, bias=False) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(inside) for _ in range(2)])
        self.depthwise = nn.Conv2d(inside, inside, 3, padding=1, groups=inside)
        self.outer = nn.ModuleList([nn.Conv2d(inside, width, 1) for _ in range(2)])
        self.head = nn.Linear(width, 3)
        self.gates: torch.Tensor | None = None

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        """The stream as its readers see it."""
        return x if self.gates is None else x * self.gates.reshape(1, -1, *[1] * (x.ndim - 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.stem(x)
        for at in range(2):
            y = torch.relu(self.norms[at](self.inner[at](self.gated(x))))
            y = self.depthwise(y) if at else y
            x = x + self.outer[at](y)
        return self.head(self.gated(torch.relu(x).mean((2, 3))))


def network_of(module: nn.Module, *shape: int, classes: int = 3) -> Network:
    """A network with twelve random samples, all of whose weights of two dimensions are prunable."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(12, *shape, generator=generator, dtype=torch.float64)
    names = {name: name for name, parameter in module.named_parameters() if parameter.ndim > 1}
    return Network(module.eval(), names, inputs, torch.arange(12) % classes)


def scored(criterion: Channels, network: Network) -> dict[str, torch.Tensor]:
    """Scores of a network's own weights."""
    return criterion.scores(network.weights(), Stats(network=network))


def test_norms_by_hand():
    """Neurons of norms 1 + 4 and 9 + 16 over both layers, the mean 15: the weaker scores 1/3, the best and the rest are protected."""
    module = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        module[2].weight.copy_(torch.tensor([[2.0, 4.0]]))
    network = Network(module.eval(), {"a": "0.weight", "b": "2.weight"}, torch.ones(2, 1), torch.zeros(2, 1))
    found = scored(Channels(by="norm"), network)
    assert found["a"].flatten().tolist() == [pytest.approx(1 / 3), found["b"][0, 1]]
    assert found["b"].flatten()[0] == found["a"][0] and found["b"][0, 1] > 1


@pytest.mark.parametrize("batch", [1, 5])
def test_fisher_is_that_of_shared_gates(batch):
    """Of the residual stream, which three layers read: squares of the slope in one gate for all, over the weights of a channel."""
    network = network_of(trained_looking(Residual()), 3, 5, 5)
    found = scored(Channels(batch=batch), network)["stem.weight"].flatten(1)[:, 0]
    module, total = network.module, torch.zeros(6, dtype=torch.float64)
    count = -(-12 // batch)
    for x, y in zip(network.inputs.tensor_split(count), network.targets.tensor_split(count), strict=True):
        module.gates = torch.ones(6, dtype=torch.float64, requires_grad=True)
        [slope] = torch.autograd.grad(network.loss(x, y), module.gates)
        total += len(x) / 12 * slope.square()
    weights = 27 + 2 * 36 + 2 * 4 + 3  # of the stem, two readers, two writers and the classifier
    best = int(total.argmax())
    others = [channel for channel in range(6) if channel != best]
    torch.testing.assert_close(found[others], total[others] / weights)
    assert found[best] > found[others].max()


@pytest.mark.parametrize("by", ["fisher", "norm"])
@settings(max_examples=10)
@given(seed=st.integers(0, 999), tenths=st.integers(1, 8))
def test_what_goes_can_be_taken_out(by, seed, tenths):
    """After one ranking every zero but those of one channel is in channels that `shrink` takes out, and outputs are those of the zeroed."""
    network = network_of(trained_looking(Residual(), seed), 3, 5, 5)
    scores = scored(Channels(by=by), network)
    masks = choose_masks(scores, pattern=Pattern(), sparsity=Fraction(tenths, 10), allocation="global")
    network.put(masks.apply(network.weights()))
    after = without(network.module, shrinking(network.module, network.inputs))
    torch.testing.assert_close(after(network.inputs), network.module(network.inputs))
    zeros = sum(int((weight == 0).sum()) for weight in after.state_dict().values() if weight.ndim > 1)
    assert zeros < 27 + 2 * 36 + 2 * 4 + 3


def test_a_budget_of_multiply_adds_divides_by_them():
    """On images of 5 x 5 a channel of the stream has 25 x (27 + 72 + 8) + 3 multiply-adds, and 110 weights."""
    network = network_of(trained_looking(Residual()), 3, 5, 5)
    by_weights, by_macs = (scored(Channels(), replace(network, saves=what))["stem.weight"].flatten(1)[:, 0] for what in ("weights", "macs"))
    others = by_weights < by_weights.max()
    torch.testing.assert_close(by_weights[others] * 110, by_macs[others] * (25 * 107 + 3))


def test_what_cannot_go_is_above_the_rest():
    """The classes and the image's channels: with all zeros asked for but those, one channel of each group is left."""
    network = network_of(trained_looking(Residual()), 3, 5, 5)
    scores = scored(Channels(), network)
    highest = max(float(score.max()) for score in scores.values())
    free = {name: score < highest for name, score in scores.items()}
    network.put({name: weight.masked_fill(free[name], 0.0) for name, weight in network.weights().items()})
    left = shapes(without(network.module, shrinking(network.module, network.inputs)))
    assert left["stem.weight"] == [1, 3, 3, 3] and left["head.weight"] == [3, 1]
    assert left["inner.0.weight"] == [1, 1, 3, 3] and left["depthwise.weight"] == [1, 1, 3, 3]


@pytest.mark.parametrize("by", ["fisher", "norm"])
def test_groups_of_a_convolution_are_channels(by):
    """Four groups of three channels: all they make, hold and read have one score, and the worst two really go."""
    layers = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 24, 3, padding=1, groups=4, bias=False), nn.ReLU()
    network = network_of(trained_looking(nn.Sequential(*layers, nn.Conv2d(24, 5, 1), nn.Flatten(), nn.Linear(125, 3))), 3, 5, 5)
    found = scored(Channels(by=by), network)
    by_group = found["3.weight"].reshape(4, 6, -1)
    assert torch.equal(by_group, by_group[:, :1, :1].expand_as(by_group)) and len(by_group[:, 0, 0].unique()) == 4
    assert torch.equal(found["0.weight"].flatten().reshape(4, 9), by_group[:, 0, :1].expand(4, 9))
    assert bool((found["5.weight"].reshape(5, 4, 6) <= by_group[None, :, 0, :1]).all())  # or that of what it makes
    worst = by_group[:, 0, 0].argsort()[:2]
    network.put(
        {name: weight.masked_fill(torch.isin(found[name], by_group[worst, 0, 0]), 0.0) for name, weight in network.weights().items()}
    )
    left = without(network.module, shrinking(network.module, network.inputs))
    assert (left[3].groups, left[3].in_channels, left[3].out_channels) == (2, 6, 12)
    torch.testing.assert_close(left(network.inputs), network.module(network.inputs))


def test_heads_of_attention_are_channels():
    """One head is rows of queries, keys and values and columns of the output: all have its score."""
    module = trained_looking(nn.TransformerEncoderLayer(8, 4, 6, batch_first=True, norm_first=True))
    network = network_of(nn.Sequential(module, nn.Flatten(), nn.Linear(24, 3).double()), 3, 8)
    found = scored(Channels(), network)
    by_head = found["0.self_attn.in_proj_weight"].reshape(3, 4, 2, 8)
    assert torch.equal(by_head, by_head[:1, :, :1, :1].expand_as(by_head))
    assert torch.equal(found["0.self_attn.out_proj.weight"].reshape(8, 4, 2)[0, :, 0], by_head[0, :, 0, 0])
    assert len(by_head[0, :, 0, 0].unique()) == 4


def test_tensors_left_dense_do_not_count():
    """A writer that is not pruned holds no score; what reads it does, and what reads it is enough to take a channel out."""
    network = network_of(trained_looking(Residual()), 3, 5, 5)
    kept = {name: there for name, there in network.names.items() if name != "stem.weight"}
    module = network.module
    part = Network(module, kept, network.inputs, network.targets)
    found = scored(Channels(), part)
    assert set(found) == set(kept) and bool(found["inner.0.weight"].isfinite().all())
    weakest = found["head.weight"][0].argmin()
    part.put({name: weight.masked_fill(found[name] <= found["head.weight"][0, weakest], 0.0) for name, weight in part.weights().items()})
    assert shapes(without(module, shrinking(module, network.inputs)))["stem.weight"][0] == 5


def test_readers_left_dense_still_tell_what_a_channel_is_worth():
    """The first neuron is read by a layer that is not pruned, and by nobody else: it is the best, not the first to go."""
    module = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).double()
    module[2].weight.data = torch.tensor([[9.0, 0.1, 0.1], [0.0, 0.2, 0.1], [0.0, 0.1, 0.3]], dtype=torch.float64)
    module[0].weight.data.fill_(1.0)
    whole = network_of(module, 2)
    part = Network(module, {"0.weight": "0.weight"}, whole.inputs.abs(), whole.targets)
    found = scored(Channels(), part)["0.weight"][:, 0]
    assert found.argmax() == 0 and bool((found[1:] > 0).all())


def test_channels_that_other_layers_keep_alive_are_refused():
    """Of a stream that three layers write to and three read, one writer alone can zero nothing."""
    module = trained_looking(Residual())
    whole = network_of(module, 3, 5, 5)
    with pytest.raises(BadRequest, match="left dense"):
        scored(Channels(), Network(module, {"stem.weight": "stem.weight"}, whole.inputs, whole.targets))


@pytest.mark.parametrize(
    ("module", "word"),
    [
        (nn.Sequential(nn.Linear(4, 3)), "output"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)), "layer norm"),
    ],
)
def test_networks_without_channels_to_spare_are_refused(module, word):
    """One sentence with a reason."""
    with pytest.raises(BadRequest, match="No channel") as caught:
        scored(Channels(), network_of(module.double(), 4))
    assert word in str(caught.value)
