"""Reordering channels of whole networks: more is retained, and outputs stay what they were."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.maths.permutation import retained
from sparsify_cli.maths.transposable import transposable
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.permute import permuted

TWO_FOUR = Pattern.parse("2:4")


class Residual(nn.Module):
    """Convolutions with batch norm and a residual sum, then a linear layer on channel-major columns."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.one, self.norm1 = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.two, self.norm2 = nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.norm2(self.two(functional.relu(self.norm1(self.one(x))))))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 2), 1))


def trained_looking(module, seed=0):
    """Every parameter and statistic random, so that a vector left behind would show."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand(tensor.shape, generator=generator) + 0.1
                if tensor.ndim == 1
                else torch.randn(tensor.shape, generator=generator) / 5
            )
    return module.eval()


def kept_by(module, names):
    """What 2:4 retains of the named weights."""
    state = module.state_dict()
    return [retained(to_matrix(state[name]).abs(), 2, 4) for name in names]


def changed(module, changes):
    """A copy with tensors changed."""
    copy = deepcopy(module)
    copy.load_state_dict(changes, strict=False)
    return copy


def test_logits_stay_and_more_is_retained():
    """With batch norm, a residual sum and flattening: every reordered weight retains more, logits change by less than 1e-5."""
    module, names = trained_looking(Residual()), ["one.weight", "two.weight"]
    sample = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = deepcopy(module.state_dict())
    changes, report = permuted(module, [*names, "head.weight"], TWO_FOUR, sample)
    new = changed(module, changes)
    fresh = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert float((new(fresh) - module(fresh)).abs().max() / module(fresh).abs().max()) < 1e-5
    assert all(after > old for old, after in zip(kept_by(module, names), kept_by(new, names), strict=True))
    assert kept_by(new, ["head.weight"]) == pytest.approx(kept_by(module, ["head.weight"]), rel=1e-9)
    assert {"stem.bias", "norm.running_var", "norm2.weight", "head.weight", "norm1.running_mean"} <= set(changes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert len(report.reordered) == 2 and report.difference < 1e-12 and not report.given_back


def test_the_report_adds_up():
    """Magnitudes of the report are those of the weights before and after."""
    module = trained_looking(Residual(), 3)
    changes, report = permuted(module, ["two.weight"], TWO_FOUR, torch.rand(2, 3, 8, 8))
    (group,) = report.reordered
    assert (group.readers, group.writers, group.channels) == (("two.weight",), ("one.weight",), 24)
    assert group.before == pytest.approx(kept_by(module, ["two.weight"])[0])
    assert group.after == pytest.approx(kept_by(changed(module, changes), ["two.weight"])[0])
    assert "Reordered 1 group of channels" in report.sentences()[0]


def test_what_is_blocked_is_named_with_its_reason():
    """Weights that read the input, or that no layer uses, are left with a reason each."""
    module = trained_looking(Residual())
    module.unused = nn.Linear(8, 8)
    changes, report = permuted(module, ["stem.weight", "unused.weight"], TWO_FOUR, torch.rand(2, 3, 8, 8))
    assert not changes and not report.reordered
    assert {blocked.readers: bool(blocked.reason) for blocked in report.blocked} == {("stem.weight",): True, ("unused.weight",): True}


def test_columns_within_a_channel_that_groups_straddle_block():
    """Where a channel is 9 columns of the linear layer, groups of 4 straddle channels, and the group is left alone."""
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(72, 4))
    changes, report = permuted(module, ["2.weight"], TWO_FOUR, torch.rand(2, 3, 3, 3))
    assert not changes and "9 columns" in report.blocked[0].reason


def test_what_would_change_outputs_is_given_back():
    """A hook that tells channels apart is not seen by tracing; the outputs are, and the order is given back with a sentence."""
    module = trained_looking(Residual())
    module.one.register_forward_hook(lambda layer, inputs, output: output * torch.arange(24).view(24, 1, 1))
    changes, report = permuted(module, ["two.weight"], TWO_FOUR, torch.rand(2, 3, 8, 8))
    assert not changes and not report.reordered
    assert "left as they were" in report.sentences()[0]


def test_untraceable_networks_are_left_alone():
    """No groups, one reason for all weights."""

    class Branches(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    changes, report = permuted(Branches(8, 8), ["weight"], TWO_FOUR, torch.rand(2, 8))
    assert not changes and report.blocked[0].readers == ("weight",)
    assert "cannot trace" in report.blocked[0].reason


def test_other_patterns_are_refused():
    """Unstructured masks do not see the order of channels."""
    with pytest.raises(BadRequest, match="N:M only"):
        permuted(nn.Linear(8, 8), ["weight"], Pattern(), torch.rand(2, 8))


BOTH_WAYS = Pattern.parse("2:4T")


def kept_both_ways(module, names):
    """What 2:4T retains of the named weights."""
    matrices = [to_matrix(module.state_dict()[name]).abs().double() for name in names]
    return sum(float(one[transposable(one, 2, 4)].sum()) for one in matrices)


def test_both_ways_an_order_that_costs_the_writers_more_is_not_taken():
    """A first layer that fits 2:4T as it is: any order of its outputs breaks that, however much the reader would gain."""
    net = trained_looking(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)))
    fits = transposable(net[0].weight.abs(), 2, 4)
    net[0].weight.data *= torch.where(fits, 5.0, 0.05)
    names = ["0.weight", "2.weight"]
    assert permuted(net, names, TWO_FOUR, torch.randn(4, 16))[0]  # with 2:4 the reader gains, and nothing is lost
    changes, done = permuted(net, names, BOTH_WAYS, torch.randn(4, 16))
    assert changes == {} and done.reordered == ()


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_what_is_said_to_be_retained_is(seed):
    """The sum over readers and writers, measured; outputs stay the same."""
    net = trained_looking(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 8)), seed)
    names, x = ["0.weight", "2.weight", "4.weight"], torch.randn(6, 16)
    changes, done = permuted(net, names, BOTH_WAYS, x)
    gain = kept_both_ways(changed(net, changes), names) - kept_both_ways(net, names)
    assert gain > 0 and gain == pytest.approx(sum(group.after - group.before for group in done.reordered), rel=1e-6)
    assert "more of their readers and writers." in done.sentences()[0]
    torch.testing.assert_close(changed(net, changes)(x), net(x))
