"""Batch-norm statistics: exact averages, stillness, and following inputs that moved."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadData
from sparsify_cli.training.batchnorm import follow, has_batchnorm, mean_loss, norms, quiet, recalibrate
from sparsify_cli.values.samples import Samples


def norm_then_drop() -> nn.Sequential:
    """Batch norm of two features, then dropout and a copy of the features as logits."""
    return nn.Sequential(nn.BatchNorm1d(2, momentum=0.3), nn.Dropout(0.5))


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of the module."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """True when all bits agree."""
    return all(torch.equal(first[name], second[name]) for name in first)


def labelled(inputs: Tensor, targets: list[int]) -> Samples:
    """Samples with ids 0, 1, 2, ..."""
    return Samples(inputs, torch.tensor(targets), tuple(str(i) for i in range(len(targets))))


def test_recalibrate_is_the_plain_average() -> None:
    """Batches {0, 2} and {4, 8} have means 1 and 6 and variances 2 and 8: the average is 3.5 and 5."""
    module = norm_then_drop()
    recalibrate(module, torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0]]), batch=2)
    assert module[0].running_mean.tolist() == [3.5, 3.5]
    assert module[0].running_var.tolist() == [5.0, 5.0]
    assert module[0].num_batches_tracked.item() == 2


def test_a_single_sample_left_over_joins_its_neighbour() -> None:
    """Five inputs in batches of two: {0, 2} and {4, 8, 0}, means 1 and 4."""
    module = norm_then_drop()
    recalibrate(module, torch.tensor([[0.0], [2.0], [4.0], [8.0], [0.0]]).expand(5, 2), batch=2)
    assert module[0].running_mean.tolist() == [2.5, 2.5]


def test_recalibrate_leaves_modes_and_momentum() -> None:
    """Modes, momentum and affine parameters are as before; what was seen earlier is forgotten."""
    module = norm_then_drop().train()
    module[1].eval()
    inputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    recalibrate(module, inputs, batch=4)
    once = state(module)
    recalibrate(module, inputs, batch=4)
    assert same(once, state(module))
    assert (module.training, module[0].training, module[1].training, module[0].momentum) == (True, True, False, 0.3)


def test_layers_after_dropout_see_what_they_see_at_inference() -> None:
    """Dropout is off while statistics are measured: a constant 1 stays 1."""
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1)).train()
    recalibrate(module, torch.ones(64, 1), batch=16)
    assert (module[1].running_mean.item(), module[1].running_var.item()) == (1.0, 0.0)


def test_recalibrate_needs_two_inputs() -> None:
    """One sample has no variance: refused in words."""
    with pytest.raises(BadData, match="on 1 sample"):
        recalibrate(norm_then_drop(), torch.ones(1, 2), batch=8)


def test_quiet_keeps_every_bit_and_still_uses_the_batch() -> None:
    """In train mode the output is normalised by the batch, and nothing is remembered."""
    module = nn.Sequential(nn.BatchNorm1d(1)).train()
    before = state(module)
    with quiet(module):
        output = module(torch.tensor([[10.0], [30.0]]))
    assert same(before, state(module))
    assert output.flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-5)
    module(torch.tensor([[10.0], [30.0]]))
    assert not same(before, state(module))


def test_quiet_ends_with_an_exception() -> None:
    """Statistics move again after an error inside."""
    module = norm_then_drop()
    with pytest.raises(KeyError), quiet(module):
        raise KeyError
    assert module[0].track_running_stats is True


def test_has_batchnorm() -> None:
    """Layers without running statistics do not count."""
    assert has_batchnorm(norm_then_drop())
    assert not has_batchnorm(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False)))


def followed(layer: nn.Module, now: list[Tensor], dense: list[Tensor]) -> nn.Module:
    """A copy of the layer whose statistics followed."""
    moved = copy.deepcopy(layer)
    follow(moved, now, dense)
    return moved


def measured_norm(kind: type[nn.Module] = nn.BatchNorm1d) -> nn.Module:
    """A batch norm of three channels whose statistics and weights are neither zero and one nor those of the samples."""
    layer = kind(3).eval()
    for tensor in (layer.running_mean, layer.weight.data, layer.bias.data):
        tensor.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (8, 3)), (nn.BatchNorm1d, (8, 3, 5)), (nn.BatchNorm2d, (8, 3, 4, 5))])
def test_nothing_moves_where_inputs_are_the_same(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    """Bit for bit, although the statistics are not those of the samples."""
    layer, batches = measured_norm(kind), list(torch.randn(shape).split(3))
    assert same(state(layer), state(followed(layer, batches, [batch.clone() for batch in batches])))


@pytest.mark.parametrize("scale", [1.0, 0.3, 4.0])
def test_scaled_and_shifted_inputs_come_out_as_before(scale: float) -> None:
    """Inputs s x + t of each channel are normalised to what x was, on samples that were not looked at too."""
    layer, x, unseen = measured_norm(nn.BatchNorm2d), torch.randn(8, 3, 4, 4), torch.randn(5, 3, 4, 4)
    layer.eps = 0.0
    shift = torch.tensor([0.0, -2.0, 5.0])[:, None, None]
    moved = followed(layer, list((scale * x + shift).split(3)), list(x.split(3)))
    torch.testing.assert_close(moved(scale * unseen + shift), layer(unseen), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved.running_var, layer.running_var * scale**2, rtol=1e-5, atol=0)
    assert torch.equal(moved.weight, layer.weight) and torch.equal(moved.bias, layer.bias)


def test_channels_may_come_last() -> None:
    """A layer of a transformer that turns [n, tokens, channels] itself moves as if its inputs had been turned."""
    layer, x, shift = measured_norm(nn.BatchNorm1d), torch.randn(8, 3, 5), torch.tensor([0.0, -2.0, 5.0])[:, None]
    turned = followed(layer, [(2 * x + shift).mT], [x.mT])
    straight = followed(layer, [2 * x + shift], [x])
    assert torch.equal(turned.running_mean, straight.running_mean) and torch.equal(turned.running_var, straight.running_var)


def test_statistics_move_by_hand() -> None:
    """Means 1 -> 4, variances 1 -> 4, statistics those of the samples: 4 and 4; dead channels move by the mean alone."""
    layer = nn.BatchNorm1d(3).eval()
    layer.running_mean.copy_(torch.tensor([1.0, 7.0, 1.0]))
    dense = torch.tensor([[0.0, 7.0, 0.0], [2.0, 7.0, 2.0]])
    now = torch.tensor([[2.0, 5.0, 9.0], [6.0, 5.0, 9.0]])
    moved = followed(layer, [now], [dense])
    assert moved.running_mean.tolist() == [4.0, 5.0, 9.0]
    assert moved.running_var.tolist() == [4.0, 1.0, 0.0]


def test_norms_are_those_with_statistics() -> None:
    """By their paths; layer norm and batch norm without statistics are left out."""
    module = nn.Sequential(
        nn.BatchNorm1d(2), nn.LayerNorm(2), nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2))
    )
    assert norms(module) == {"0": module[0], "2.1": module[2][1]}


def test_mean_loss_by_hand() -> None:
    """Logits (0, 0) and (ln 3, 0), both class 0: (ln 2 + ln 4/3) / 2, in batches of one too; modes are left."""
    module = nn.Sequential(nn.Identity(), nn.Dropout(0.5)).train()
    samples = labelled(torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), [0, 0])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert mean_loss(module, samples) == pytest.approx(expected, rel=1e-6)
    assert module[1].training


class Way(nn.Module):
    """Of the samples, those with a positive first number pass one norm, the others another; and a third one nothing ever passes."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(2) for _ in range(3))

    def forward(self, x):
        out, up = torch.zeros_like(x), x[:, 0] > 0
        for norm, where in zip(self.norms, (up, ~up), strict=False):
            if bool(where.any()):
                out[where] = norm(x[where])
        return out


def test_a_norm_that_a_single_sample_comes_to_cannot_be_measured():
    """Refused in words, statistics and modes as before."""
    net = Way().train()
    for norm in net.norms:
        norm.running_mean.fill_(3)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(BadData, match="cannot be measured"):
        recalibrate(net, torch.tensor([[1.0, 0], [-1.0, 0], [-2.0, 1]]), batch=3)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items()) and net.norms[0].training


def test_a_norm_that_nothing_comes_to_keeps_its_statistics():
    """The others are measured; nor does it follow."""
    net = Way()
    for norm in net.norms:
        norm.running_mean.fill_(3)
    recalibrate(net, torch.tensor([[1.0, 0], [3.0, 2], [-1.0, 0], [-2.0, 1]]), batch=4)
    assert [norm.running_mean.tolist() for norm in net.norms] == [[2, 1], [-1.5, 0.5], [3, 3]]
    follow(net.norms[2], [torch.zeros(0, 2)], [torch.zeros(0, 2)])
    assert net.norms[2].running_mean.tolist() == [3, 3]


def test_channels_that_hardly_varied_tell_no_scale() -> None:
    """A million million times the variance of next to nothing says nothing: the variance stays, the mean follows."""
    layer = nn.BatchNorm1d(2)
    dense = torch.randn(50, 2, dtype=torch.float64) * torch.tensor([1e-7, 1.0])
    now = torch.randn(50, 2, dtype=torch.float64) * torch.tensor([1.0, 2.0]) + torch.tensor([5.0, 0.0])
    follow(layer, [now], [dense])
    ratio = now[:, 1].var(correction=0) / dense[:, 1].var(correction=0)
    assert float(layer.running_var[0]) == 1 and float(layer.running_var[1]) == pytest.approx(float(ratio), rel=1e-5)
    assert float(layer.running_mean[0]) == pytest.approx(float(now[:, 0].mean()), rel=1e-5)
