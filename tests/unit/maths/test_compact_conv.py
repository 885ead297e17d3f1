"""Convolutions without zero columns and rows: the same outputs, and the share of work that is left."""

from __future__ import annotations

import itertools
from copy import deepcopy

import pytest
import torch
from torch import nn

from sparsify_cli.maths.compact_conv import CompactConv2d, compacted, compaction, compactions
from sparsify_cli.maths.macs import macs_per_weight

SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": (3, 2), "padding": (2, 0), "dilation": (1, 2), "stride": (2, 1)},
    {"kernel_size": 1},
]


def thinned(conv: nn.Conv2d, seed: int = 0) -> nn.Conv2d:
    """A convolution with about three of four columns zero, and two filters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        flat = conv.weight.flatten(1)
        flat[:, torch.rand(flat.shape[1], generator=generator) < 0.75] = 0
        flat[:2] = 0
        flat[2, :] += (torch.arange(flat.shape[1]) == 0).float()  # something is left
    return conv


@pytest.mark.parametrize(("shape", "bias"), list(itertools.product(SHAPES, (True, False))))
def test_outputs_are_those_of_the_convolution(shape, bias):
    """For strides, paddings, dilations and kernels that are not square, in float64 to 1e-12; gradients of inputs as well."""
    torch.manual_seed(1)
    net = nn.Sequential(thinned(nn.Conv2d(5, 7, bias=bias, **shape)).double())
    kept = compaction(net[0].weight.detach())
    small = compacted(deepcopy(net), {"0": (len(kept.rows), len(kept.columns))})
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "0.weight"} | kept.tensors("0", net[0].weight.detach())
    small.load_state_dict(state)
    images = torch.randn(3, 5, 11, 9, dtype=torch.float64, requires_grad=True)
    out, again = net(images), small(images)
    assert out.shape == again.shape and (out - again).abs().max() < 1e-12
    first, second = (torch.autograd.grad(one.square().sum(), images)[0] for one in (out, again))
    assert (first - second).abs().max() < 1e-10


def test_work_falls_by_rows_times_columns():
    """Counted by one forward pass; the weight is the product of what is kept."""
    torch.manual_seed(1)
    net = nn.Sequential(thinned(nn.Conv2d(5, 7, 3, padding=1)))
    kept = compaction(net[0].weight.detach())
    images = torch.randn(1, 5, 8, 8)
    before = macs_per_weight(net, images)["0.weight"] * net[0].weight.numel()
    small = compacted(net, {"0": (len(kept.rows), len(kept.columns))})
    after = macs_per_weight(small, images)["0.product.weight"] * small[0].product.weight.numel()
    assert len(kept.rows) == 5 and after / before == pytest.approx(kept.share) == pytest.approx(5 / 7 * len(kept.columns) / 45)


def test_only_plain_convolutions_with_little_left():
    """Groups, other paddings, two names, shared weights and dense ones stay what they are; so does one of which nothing is left."""
    shared = thinned(nn.Conv2d(4, 4, 3))
    zero = nn.Conv2d(4, 4, 3)
    nn.init.zeros_(zero.weight)
    net = nn.ModuleDict(
        {
            "groups": thinned(nn.Conv2d(4, 4, 3, groups=2)), "reflect": thinned(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
            "same": thinned(nn.Conv2d(4, 4, 3, padding="same")), "dense": nn.Conv2d(4, 4, 3), "zero": zero, "one": shared, "two": shared,
            "yes": thinned(nn.Conv2d(4, 4, 3)),
        }
    )  # fmt: skip
    assert list(compactions(net, most=0.5)) == ["yes"]
    assert not compactions(net, most=0.0)


def test_images_of_other_channels_are_refused():
    """As a convolution refuses them; a gather alone would read other numbers and say nothing."""
    layer = CompactConv2d(nn.Conv2d(3, 4, 3, padding=1), filters=4, columns=9)
    for shape in ((2, 1, 6, 6), (2, 4, 6, 6)):
        with pytest.raises(ValueError, match="3 channels"):
            layer(torch.zeros(shape))


def test_a_wrong_name_is_an_error():
    """And so is a layer that is no convolution."""
    with pytest.raises(AttributeError):
        compacted(nn.Sequential(nn.Linear(2, 2)), {"0": (1, 1)})


def test_it_exports_to_torch_programs():
    """torch.export follows it for any number of images, so that ONNX can be written of it."""
    torch.manual_seed(1)
    layer = CompactConv2d(nn.Conv2d(3, 4, 3, padding=1), filters=4, columns=9)
    program = torch.export.export(nn.Sequential(layer).eval(), (torch.randn(2, 3, 6, 6),), dynamic_shapes=({0: torch.export.Dim("n")},))
    images = torch.randn(5, 3, 6, 6)
    assert torch.allclose(program.module()(images), layer(images), atol=1e-6)
