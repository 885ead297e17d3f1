"""Taking channels out where tensors are put side by side or taken apart, and out of transposed convolutions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.stages.shrunk import shrinking
from sparsify_cli.values.mask_set import MaskSet
from tests.shrunk_networks import shapes, shrunk_alike, trained_looking, without, zero


class Dense(nn.Module):
    """A dense block: each layer reads everything before it, through a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm1, self.one = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1, bias=False)
        self.norm2, self.two = nn.BatchNorm2d(7), nn.Conv2d(7, 3, 3, padding=1, bias=False)
        self.norm3, self.head = nn.BatchNorm2d(10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        x = torch.cat([x, self.one(functional.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.two(functional.relu(self.norm2(x)))], 1)
        return self.head(functional.relu(self.norm3(x)).mean((2, 3)))


def test_dense_blocks_lose_channels_everywhere_they_are_read():
    """A zero filter of `one` is read behind two norms: its row, two entries of the norms and two columns go."""
    module = trained_looking(Dense())
    zero(module.one.weight, 1)
    module.norm2.bias.data[5] = -100.0  # which is zero behind relu, so that the padded `two` needs no carrier
    after, found = shrunk_alike(module, 3, 6, 6)
    assert shapes(after) == {"stem.weight": [4, 3, 3, 3], "one.weight": [2, 4, 3, 3], "two.weight": [3, 6, 3, 3], "head.weight": [4, 9]}
    assert (after.norm2.num_features, after.norm3.num_features) == (6, 9)
    assert (found.removed[0].writers, found.removed[0].readers) == (("one.weight",), ("two.weight", "head.weight"))


def test_each_part_of_a_concatenation_has_its_own_carrier():
    """Two zero filters of the stem and two of `one`, constants behind norms: one of each pair carries the other into `two`."""
    module = trained_looking(Dense())
    zero(module.stem.weight, 0, 3)
    zero(module.one.weight, 0, 2)
    masks = MaskSet.from_zeros({"two.weight": module.two.weight})
    after, found = shrunk_alike(module, 3, 6, 6)
    assert shapes(after)["two.weight"] == [3, 5, 3, 3] and shapes(after)["head.weight"] == [4, 8]
    assert list(found.surgery.masks(masks)["two.weight"].shape) == [3, 5, 3, 3]


class Hourglass(nn.Module):
    """A U-Net of one step: down, up again by a transposed convolution, and what came in beside it."""

    def __init__(self, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip
        self.into, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm, self.up = nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.out = nn.Conv2d(9 if skip else 5, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Two numbers a pixel."""
        x = functional.relu(self.into(x))
        y = functional.relu(self.up(functional.relu(self.norm(self.down(x)))))
        return self.out(torch.cat((y, x), dim=1) if self.skip else y)


@pytest.mark.parametrize("skip", [True, False])
def test_u_nets(skip: bool):
    """Transposed convolutions lose inputs (of three constants one carries the others) and outputs; so does what skips them."""
    module = trained_looking(Hourglass(skip))
    zero(module.down.weight, 0, 2, 5)
    module.up.weight.data[:, 1] = 0
    module.up.bias.data[1] = -1.0
    zero(module.into.weight, 2)
    module.into.bias.data[2] = 0
    after, _ = shrunk_alike(module, 3, 8, 8)
    assert shapes(after) == {
        "into.weight": [3, 3, 3, 3], "down.weight": [4, 3, 3, 3], "up.weight": [4, 4, 2, 2], "out.weight": [2, 7 if skip else 4, 3, 3],
    }  # fmt: skip
    assert (after.up.in_channels, after.up.out_channels) == (4, 4)


class Gated(nn.Module):
    """Half of the channels times the sigmoid of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers."""
        value, gate = self.one(x).chunk(2, dim=-1)
        return self.two(value * gate.sigmoid())


def test_what_the_code_divides_stays_with_a_reason():
    """Zero channels of a gate stay: half of fewer would be other channels."""
    module = trained_looking(Gated())
    zero(module.one.weight, 1, 5)
    module.one.bias.data[[1, 5]] = 0
    found = shrunk_alike(module, 4)[1]
    assert found.channels == 0 and "where to divide them: `chunk`" in found.notes[0]


class Pyramid(nn.Module):
    """A path that is resized and added to another, beside a slice of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(2, 6, 3, stride=2, padding=1)
        self.other, self.out = nn.Conv2d(2, 5, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers a pixel."""
        sums = self.fine(x) + functional.interpolate(self.coarse(x), scale_factor=2, mode="nearest")
        return self.out(torch.cat([sums, self.other(x)[:, 1:3]], 1))


def test_resized_sums_shrink_and_slices_stay():
    """Channel 4 is zero in both paths; channel 2 of the sliced layer is zero, and the slice counts it."""
    module = trained_looking(Pyramid())
    for layer, row in ((module.fine, 4), (module.coarse, 4), (module.other, 2)):
        zero(layer.weight, row)
        layer.bias.data[row] = 0
    after, found = shrunk_alike(module, 2, 8, 8)
    assert shapes(after)["out.weight"] == [3, 7, 1, 1] and shapes(after)["other.weight"] == [5, 2, 1, 1]
    assert any("other stays" in note for note in found.notes)


def test_masks_of_transposed_convolutions_are_cut_along_their_inputs():
    """The carrier's row holds wherever one that it carries did."""
    module = trained_looking(Hourglass())
    zero(module.down.weight, 0, 2)
    module.up.weight.data[0, :, 0] = 0
    masks = MaskSet.from_zeros({"up.weight": module.up.weight})
    after, found = shrunk_alike(module, 3, 8, 8)
    mask = found.surgery.masks(masks)["up.weight"]
    assert list(mask.shape) == [5, 5, 2, 2] and bool((after.up.weight[~mask] == 0).all())
    assert int((~mask).sum()) in (0, 10)  # the carrier is channel 2, or channel 0, which carries 2 into what was zero


@st.composite
def branching(draw: st.DrawFn) -> nn.Module:
    """A random network of layers that read all or some of what came before, side by side or added, with random zeros."""
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    module = Branching(widths, draw(st.lists(st.sampled_from(["beside", "added", "alone", "turned"]), min_size=4, max_size=4)))
    module = trained_looking(module, draw(st.integers(0, 99)))
    for layer in module.layers:
        rows = list(range(layer.weight.shape[isinstance(layer, nn.ConvTranspose2d)]))
        gone = draw(st.lists(st.sampled_from(rows), max_size=2))
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.data[:, gone] = 0
        else:
            zero(layer.weight, *gone)
        if layer.bias is not None and draw(st.booleans()):
            layer.bias.data[gone] = 0
    return module


class Branching(nn.Module):
    """Layers of 3 x 3, each followed by a norm."""

    def __init__(self, widths: list[int], how: list[str]) -> None:
        super().__init__()
        self.how, self.layers, self.norms, channels = how, nn.ModuleList(), nn.ModuleList(), 2
        for width, way in zip(widths, how, strict=False):
            width = channels if way == "added" else width
            kind = nn.ConvTranspose2d if way == "turned" else nn.Conv2d
            self.layers.append(kind(channels, width, 3, padding=1))
            channels = channels + width if way == "beside" else width
            self.norms.append(nn.BatchNorm2d(channels))
        self.out = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers."""
        for layer, norm, way in zip(self.layers, self.norms, self.how, strict=False):
            y = layer(x)
            x = torch.relu(norm(torch.cat([x, y], 1) if way == "beside" else x + y if way == "added" else y))
        return self.out(x.mean((2, 3)))


@settings(max_examples=25)
@given(branching())
def test_random_branching_networks_compute_what_they_did(module: nn.Module):
    """Whatever is zero, the network without it computes the same, has no more numbers, and shrinks no further."""
    after, found = shrunk_alike(module, 2, 6, 6)
    before, left = (sum(p.numel() for p in one.parameters() if p.ndim > 1) for one in (module, after))
    assert left < before if found.channels else left == before
    again = shrinking(after, torch.randn(2, 2, 6, 6))
    assert again.channels == 0
    without(after, again)
