"""Batch-norm statistics: exact averages, stillness, and bit-exact restoring."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadData
from sparsify_cli.training.batchnorm import has_batchnorm, quiet, recalibrate, reestimated
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


def test_better_statistics_are_kept() -> None:
    """A mean of 100 for one feature makes every prediction class 1; measured anew the classes are apart."""
    module = nn.Sequential(nn.BatchNorm1d(2)).train()
    module[0].running_mean[0] = 100.0
    inputs = torch.tensor([[4.0, 0.0], [0.0, 4.0]] * 4)
    samples = labelled(inputs, [0, 1] * 4)
    result = reestimated(module, samples, samples)
    assert result.kept and result.after < result.before
    assert result.before == pytest.approx(48, abs=0.01)  # class 0: logits 4 - 100 and 0, so 96; class 1: 0
    assert module[0].running_mean.tolist() == [2.0, 2.0]
    assert module.training


def test_worse_statistics_are_taken_back() -> None:
    """When held-out loss rises, every bit of the old statistics is back, the batch counter too."""
    module = nn.Sequential(nn.BatchNorm1d(2))
    held_out = labelled(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), [0, 1])
    shifted = labelled(torch.tensor([[0.0, 500.0], [1.0, 900.0], [0.0, 100.0]]), [0, 1, 0])
    before = state(module)
    result = reestimated(module, shifted, held_out)
    assert not result.kept and result.after >= result.before
    assert same(before, state(module))


def test_nothing_happens_without_batch_norm() -> None:
    """A plain network is judged and left alone."""
    module = nn.Sequential(nn.Linear(2, 2))
    samples = labelled(torch.eye(2), [0, 1])
    result = reestimated(module, samples, samples)
    assert (result.kept, result.before) == (False, result.after)
