"""Batches that are computed in parts, and clipped gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.training import guard
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples


def data(n: int = 22) -> Samples:
    """Samples of five numbers in three classes."""
    inputs = torch.randn(n, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return Samples(inputs, inputs[:, :3].argmax(1), tuple(map(str, range(n))))


def trained(accumulate: int, clip: float = 0.0) -> nn.Module:
    """A small network after three epochs."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    run = Run(model, model, optimizer, lambda loss: loss.backward(), total=9, per_epoch=3, clip=clip)
    loss = CrossEntropy().prepare(nn.Module)
    train(run, Fixed(), loss, data(), batch_size=8, seed=0, learning_rate=lambda *_: 0.2, accumulate=accumulate)
    return model


@pytest.mark.parametrize("parts", [2, 3, 4, 100])
def test_parts_add_up_to_the_batch(parts: int) -> None:
    """A batch in parts, unequal ones too, gives the same network up to rounding."""
    whole, pieces = trained(1), trained(parts)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(whole.parameters(), pieces.parameters(), strict=True))


def test_the_gradient_is_clipped() -> None:
    """A step with clip c moves weights by lr c in the norm when the gradient is longer, and as far as it is when shorter."""
    for clip, meant in ((0.5, 0.5), (100.0, 5.0)):
        model = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(model.weight)
        run = Run(model, model, torch.optim.SGD(model.parameters(), lr=1.0), lambda loss: loss.backward(), 1, 1, clip=clip)
        guard.descend(run, lambda model=model: (model.weight * torch.tensor([[3.0, 4.0]])).sum())
        assert float(model.weight.detach().norm()) == pytest.approx(meant)


def test_masked_weights_do_not_count_when_clipping() -> None:
    """The norm is that of the gradient that is used."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    masks = MaskSet({"weight": torch.tensor([[True, False]])})
    run = Run(model, model, torch.optim.SGD(model.parameters(), lr=1.0), lambda loss: loss.backward(), 1, 1, masks=masks, clip=3.0)
    guard.descend(run, lambda: (model.weight * torch.tensor([[3.0, 4.0]])).sum())
    assert torch.allclose(model.weight, torch.tensor([[-3.0, 0.0]]), atol=1e-5)
