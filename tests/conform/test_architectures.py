"""What every architecture on the shelf promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.resolve import build_architecture
from sparsify_cli.values.checkpoint import Spec

EACH = pytest.mark.parametrize("name", Shelf("architectures").names())


@EACH
def test_built_in_train_mode(name):
    """The defaults build a module in train mode with parameters that require gradients."""
    module = build_architecture(Spec(name))
    assert isinstance(module, nn.Module)
    assert module.training
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == []


@EACH
def test_seed_decides_the_weights(name):
    """The same seed is the same network, another seed another one: initialisation uses torch's generator only."""

    def built(seed):
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build_architecture(Spec(name)).parameters()])

    assert torch.equal(built(0), built(0))
    assert not torch.equal(built(0), built(1))


@EACH
def test_every_weight_counts(name):
    """Every parameter gets a gradient that is not all zero from one batch of random images."""
    module = build_architecture(Spec(name))
    loss = nn.functional.cross_entropy(module(torch.rand(16, 1, 8, 8)), torch.arange(16) % 10)
    loss.backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


@EACH
def test_samples_do_not_mix_in_eval_mode(name):
    """In eval mode the logits of a sample do not depend on the rest of its batch."""
    module, images = build_architecture(Spec(name)).eval(), torch.rand(4, 1, 8, 8)
    alone = torch.cat([module(image[None]) for image in images])
    torch.testing.assert_close(module(images), alone)


@EACH
def test_weights_move_to_another_instance(name):
    """A state dict of one instance makes another one the same network."""
    first, second, images = *(build_architecture(Spec(name)).eval() for _ in range(2)), torch.rand(2, 1, 8, 8)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))
