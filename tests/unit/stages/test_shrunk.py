"""Taking channels out of whole networks: fewer numbers, the same outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sparsify_cli.errors import Anomalous, Infeasible
from sparsify_cli.maths import channel_cuts
from sparsify_cli.maths.output_change import output_change, outputs
from sparsify_cli.stages.shrunk import require_same, shrinking
from sparsify_cli.values.mask_set import MaskSet
from tests.shrunk_networks import shapes, shrunk_alike, trained_looking, without, zero


def chain(padding: int, bias: bool = True) -> nn.Sequential:
    """Conv - batch norm - relu, twice, and a linear layer on channels flattened with their positions."""
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=padding, bias=bias),
        nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * (4 + 2 * padding) ** 2, 7),
    )  # fmt: skip
    return trained_looking(module)


def test_constants_go_into_a_bias():
    """Two of 6 zero filters with batch norm behind them carry constants; the unpadded reader's bias takes them, and 4 filters stay."""
    module = chain(padding=0)
    zero(module[0].weight, 1, 4)
    after, found = shrunk_alike(module, 3, 6, 6)
    assert shapes(after) == {"0.weight": [4, 3, 3, 3], "3.weight": [5, 4, 3, 3], "7.weight": [7, 80]}
    assert (found.channels, found.removed[0].writers, found.removed[0].readers, found.notes) == (2, ("0.weight",), ("3.weight",), ())
    assert (after[3].in_channels, after[0].out_channels, after[1].num_features) == (4, 4, 4)
    assert not torch.equal(after[3].bias, module[3].bias) and torch.equal(after[4].running_mean, module[4].running_mean)


def test_constants_go_into_the_mean_of_a_batch_norm():
    """A reader without a bias gets none: the batch norm behind it takes the constant away from its running mean."""
    module = chain(padding=0, bias=False)
    zero(module[0].weight, 0)
    after, _ = shrunk_alike(module, 3, 6, 6)
    assert after[3].bias is None and not torch.equal(after[4].running_mean, module[4].running_mean)


def test_one_channel_carries_constants_past_a_border():
    """Where the reader pads with zeros no bias can stand for a constant: of three such channels one stays and carries the others."""
    module = chain(padding=1)
    zero(module[0].weight, 0, 2, 5)
    after, found = shrunk_alike(module, 3, 6, 6)
    assert shapes(after)["0.weight"] == [4, 3, 3, 3]
    assert "1 zero channel of 0 stays: it carries the constants of 2 others" in found.notes[0]


def test_channels_that_are_zero_need_no_carrier():
    """With a batch norm that shifts below zero, ReLU makes the constant zero, and all three go."""
    module = chain(padding=1)
    zero(module[0].weight, 0, 2, 5)
    module[1].bias.data[[0, 2, 5]] = -100.0
    assert shapes(shrunk_alike(module, 3, 6, 6)[0])["0.weight"] == [3, 3, 3, 3]


def test_a_single_constant_at_a_border_stays_with_a_reason():
    """One channel cannot carry itself away."""
    module = chain(padding=1)
    zero(module[0].weight, 3)
    _, found = shrunk_alike(module, 3, 6, 6)
    assert found.channels == 0 and "pads with zeros" in found.notes[0]


def test_a_channel_is_a_block_of_columns_behind_flatten():
    """Of 5 channels of 16 positions two go: 3 x 16 = 48 columns stay, also where constants differ between positions."""
    module = chain(padding=0)
    zero(module[3].weight, 0, 3)
    assert shapes(shrunk_alike(module, 3, 6, 6)[0])["7.weight"] == [7, 48]


def test_a_linear_layer_without_a_bias_gets_one():
    """Neurons that are constant: their reader had no bias, and has one afterwards."""
    module = trained_looking(nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3, bias=False)))
    zero(module[0].weight, 0, 1, 2)
    after, found = shrunk_alike(module, 4)
    assert shapes(after) == {"0.weight": [5, 4], "2.weight": [3, 5]} and after[2].bias is not None
    assert found.surgery.shapes(module.state_dict())["2.bias"] == (3,)


def test_what_nobody_reads_goes_and_so_does_what_only_it_read():
    """Zero columns of the last layer free neurons of the second; those were all that read one neuron of the first."""
    module = trained_looking(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)))
    module[4].weight.data[:, :2] = 0
    module[2].weight.data[2:, 5] = 0
    assert shapes(shrunk_alike(module, 4)[0]) == {"0.weight": [5, 4], "2.weight": [4, 5], "4.weight": [3, 4]}


def test_a_layer_keeps_one_channel():
    """A layer that is zero altogether keeps one channel, and a note says so."""
    module = trained_looking(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    module[0].weight.data.zero_()
    after, found = shrunk_alike(module, 4)
    assert shapes(after) == {"0.weight": [1, 4], "2.weight": [3, 1]} and "keeps one at least" in found.notes[0]


class Residual(nn.Module):
    """A residual block behind a stem, with a convolution as a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one, self.norm1 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two, self.norm2 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.short, self.head = nn.Conv2d(4, 5, 1), nn.Linear(5, 3)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = functional.relu(self.norm2(self.two(functional.relu(self.norm1(self.one(x))))) + self.short(x))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def test_sums_need_zeros_on_both_sides():
    """Channel 0 is zero in both branches of the sum and goes; channel 1 only in one of them, stays, and a note says why."""
    module = trained_looking(Residual())
    zero(module.two.weight, 0, 1)
    zero(module.short.weight, 0)
    after, found = shrunk_alike(module, 3, 6, 6)
    assert shapes(after)["two.weight"] == [4, 6, 3, 3] and shapes(after)["short.weight"] == [4, 4, 1, 1]
    assert found.channels == 1 and "1 zero channel of two, short stays: sums join" in found.notes[0]


class Padded(nn.Module):
    """Shortcuts as in CIFAR ResNets of option A: channels are subsampled and padded with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.two(functional.relu(self.one(x))) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(y.mean((2, 3)))


def test_padded_shortcuts_keep_what_they_pad_with():
    """Channel 0 of the stem goes with channel 2 of the sum, where 2 zeros come before it; channel 7 of the sum stays for the padding."""
    module = trained_looking(Padded())
    for layer, rows in ((module.stem, (0, 1)), (module.one, (1, 2, 3)), (module.two, (2, 7))):
        zero(layer.weight, *rows)
        layer.bias.data[list(rows)] = 0
    module.head.weight.data[:, 6] = 0
    after, found = shrunk_alike(module, 3, 9, 9)
    assert shapes(after) == {
        "stem.weight": [3, 3, 3, 3], "one.weight": [5, 3, 3, 3], "two.weight": [7, 5, 3, 3], "head.weight": [3, 7],
    }  # fmt: skip
    assert any("1 zero channel of two stays" in note and "pads the 4 channels to 8" in note for note in found.notes)
    assert any("1 zero channel of two, stem stays: sums join" in note for note in found.notes)


def test_depthwise_convolutions_shrink_with_their_channels():
    """A convolution with one group for each channel loses the channel and the group."""
    layers = nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten()
    module = trained_looking(nn.Sequential(*layers, nn.Linear(4 * 25, 2)))
    zero(module[0].weight, 2)
    module[0].bias.data[2] = 0
    zero(module[2].weight, 5)
    after, _ = shrunk_alike(module, 3, 5, 5)
    assert shapes(after)["2.weight"] == [4, 1, 3, 3] and (after[2].groups, after[2].in_channels, after[2].out_channels) == (4, 4, 4)


def test_rounds_go_on_while_other_channels_stay():
    """The channel of `two` that stays is another one in the second round: what only the first one read goes as well."""
    one, two, three = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 2, 1)
    module = trained_looking(nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), three, nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)))
    zero(two.weight, 0)
    three.weight.data[:, :3] = 0
    zero(three.weight, 0)
    zero(module[7].weight, 0, 1)
    after, _ = shrunk_alike(module, 3, 4, 4)
    assert [shapes(after)[f"{at}.weight"][0] for at in (0, 2, 4)] == [1, 1, 1]


class Cascade(nn.Module):
    """A stream in which each channel is read only by what makes the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 1), nn.Linear(width, 2)
        self.one, self.two = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.two(self.one(x).relu())).mean((2, 3)))


@pytest.mark.parametrize(("rounds", "gone"), [(1000, 22), (5, 5), (0, 0)])
def test_what_goes_one_after_the_other(monkeypatch, rounds, gone):
    """A residual network goes step by step; where rounds end before that, what is left of them stays, and outputs with it."""
    monkeypatch.setattr(channel_cuts, "ROUNDS", rounds)
    module, after = trained_looking(Cascade(12)), torch.diag(torch.ones(11), -1)
    module.one.weight.data.mul_(torch.eye(12)[:, :, None, None])
    module.two.weight.data.mul_(after[:, :, None, None])
    module.head.weight.data[:, 1:] = 0
    assert shrunk_alike(module, 3, 4, 4)[1].channels == gone


class Odd(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1), between

    def forward(self, x):
        return self.two(self.between(self.one(x))).flatten(1)


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (lambda x: x - x.mean(1, keepdim=True), "is a mean over them"),
        (lambda x: torch.softmax(x, 1), "softmax"),
        (nn.GroupNorm(2, 4), "GroupNorm"),
        (lambda x: x.view(-1, 4, 16).view(-1, 4, 4, 4), "says how many there are"),
        (lambda x: nn.functional.normalize(x), "normalize"),
    ],
)
def test_what_looks_at_all_channels_at_once_keeps_them(between, why):
    """Means, norms and softmax over channels, and sizes that the code names, keep zero channels in place, with the reason."""
    module = trained_looking(Odd(between))
    zero(module.one.weight, 1, 2)
    _, found = shrunk_alike(module, 3, 4, 4)
    assert found.channels == 0 and why in found.notes[0]


class Normed(nn.Module):
    """Linear layers with a layer norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.two(self.norm(self.one(x)))


def test_layer_norms_keep_their_channels():
    """A layer norm divides by the number of channels."""
    module = trained_looking(Normed())
    zero(module.one.weight, 1)
    assert "layer norm `norm`" in shrunk_alike(module, 4)[1].notes[0]


class Excited(nn.Module):
    """Squeeze and excitation: channels are scaled by what their own means say."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 2, 3, padding=1)
        self.down, self.up = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)

    def forward(self, x):
        x = functional.relu(self.one(x))
        scale = torch.sigmoid(self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1)))))
        return self.two(x * scale).flatten(1)


def test_products_with_zero_are_zero():
    """A zero channel times a scale that depends on the input is zero still, and goes from the scale too."""
    module = trained_looking(Excited())
    zero(module.one.weight, 1, 3)
    after, _ = shrunk_alike(module, 3, 6, 6)
    assert shapes(after) == {"one.weight": [4, 3, 3, 3], "two.weight": [2, 4, 3, 3], "down.weight": [3, 4, 1, 1], "up.weight": [4, 3, 1, 1]}


class Twice(nn.Module):
    """One layer that is used twice, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.same = nn.Linear(4, 6), nn.Linear(6, 6)
        self.back, self.out = nn.Linear(6, 4, bias=False), nn.Linear(4, 2)
        self.tied = nn.Linear(6, 4, bias=False)
        self.tied.weight = self.back.weight

    def forward(self, x):
        x = torch.relu(self.into(x))
        x = torch.relu(self.same(torch.relu(self.same(x))))
        return self.out(self.back(x) + torch.relu(self.tied(x)))


def test_weights_that_are_used_twice():
    """Zero channels go only where every use sees zero, and weights of two names stay one."""
    module = trained_looking(Twice())
    for layer in (module.into, module.same):
        zero(layer.weight, 2)
        layer.bias.data[2] = 0
    after, found = shrunk_alike(module, 4)
    assert shapes(after) == {
        "into.weight": [5, 4],
        "same.weight": [5, 5],
        "back.weight": [4, 5],
        "tied.weight": [4, 5],
        "out.weight": [2, 4],
    }
    assert after.tied.weight is after.back.weight and found.channels == 1


def test_a_constant_that_is_read_twice_stays():
    """A weight that two calls read cannot owe each of them another bias."""
    module = trained_looking(Twice())
    zero(module.into.weight, 2)
    zero(module.same.weight, 2)
    assert shrunk_alike(module, 4)[1].channels == 0


def test_embeddings_lose_columns():
    """A column that is the same for every word is a constant."""
    module = trained_looking(nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 3)))
    module[0].weight.data[:, 1] = 0.5
    found = shrinking(module, torch.randint(9, (2, 4)))
    words, after = torch.randint(9, (3, 4)), without(module, found)
    assert output_change(outputs(module, words), outputs(after, words)) < 1e-12
    assert shapes(after) == {"0.weight": [9, 4], "1.weight": [3, 4]} and after[0].embedding_dim == 4


def test_masks_are_cut_and_a_carrier_holds_for_all():
    """Masks get the new shapes; the carrier's column is kept wherever one of the columns it carries was."""
    module = chain(padding=1)
    zero(module[0].weight, 0, 2)
    module[3].weight.data[:, 0, :, 0] = 0
    module[3].weight.data[0, 2] = 0
    masks = MaskSet.from_zeros({name: module.state_dict()[name] for name in ("0.weight", "3.weight")})
    after, found = shrunk_alike(module, 3, 6, 6)
    cut = found.surgery.masks(masks)
    assert {name: list(mask.shape) for name, mask in cut.items()} == {"0.weight": [5, 3, 3, 3], "3.weight": [5, 5, 3, 3]}
    assert all(bool((after.state_dict()[name][~mask] == 0).all()) for name, mask in cut.items())
    assert cut["3.weight"].sum() == 5 * 5 * 9 - 3  # of the carrier, row 0 lacks one column of three


def test_untraceable_networks_are_refused():
    """Exit 5 with the reason."""

    class Branches(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(Infeasible, match="cannot trace"):
        shrinking(Branches(8, 8), torch.rand(2, 8))


def test_other_outputs_are_anomalous():
    """A hook that tells channels apart is not seen by tracing; the comparison of outputs is."""
    module = chain(padding=0)
    zero(module[0].weight, 0)
    module[2].register_forward_hook(lambda layer, inputs, output: output * torch.arange(output.shape[1]).view(-1, 1, 1))
    found = shrinking(module, torch.rand(2, 3, 6, 6))
    with pytest.raises(Anomalous, match="differ by"):
        require_same(module, without(module, found), torch.rand(2, 3, 6, 6))


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A random small network of convolutions, some with batch norm, some joined, with random zero filters and columns."""
    widths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    layers: list[nn.Module] = []
    channels, size = 2, 8
    for width in widths:
        padding, kernel = draw(st.sampled_from([(0, 1), (1, 3), (0, 3)]))
        kernel, padding = (kernel, padding) if size + 2 * padding >= kernel else (1, 0)
        layers.append(nn.Conv2d(channels, width, kernel, padding=padding, bias=draw(st.booleans())))
        layers += [nn.BatchNorm2d(width)] * draw(st.booleans())
        layers.append(
            draw(st.sampled_from([nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)]))
        )
        layers += [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(inplace=True)] * draw(st.booleans())
        channels, size = width, size + 2 * padding - kernel + 1
    layers += [nn.Flatten(), nn.Linear(channels * size * size, 4), nn.ReLU(), nn.Linear(4, 3, bias=draw(st.booleans()))]
    module = trained_looking(nn.Sequential(*layers), draw(st.integers(0, 99)))
    for layer in module:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            zero(layer.weight, *draw(st.lists(st.integers(0, len(layer.weight) - 1), max_size=4)))
            layer.weight.data[:, draw(st.lists(st.integers(0, layer.weight.shape[1] - 1), max_size=2))] = 0
    return module


@settings(max_examples=15)
@given(networks())
def test_random_networks_compute_what_they_did(module):
    """Whatever is zero, the network without it computes the same to 1e-10, has no more numbers, and shrinks no further."""
    after, found = shrunk_alike(module, 2, 8, 8)
    before, left = (sum(p.numel() for p in one.parameters() if p.ndim > 1) for one in (module, after))
    assert left < before if found.channels else left == before
    assert shrinking(after, torch.randn(2, 2, 8, 8)).channels == 0
