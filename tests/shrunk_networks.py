"""Networks whose every number is random, and what is left of them without channels that are zero."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from sparsify_cli.maths.output_change import output_change, outputs
from sparsify_cli.maths.resize import resized
from sparsify_cli.stages.shrunk import Shrinking, shrinking


def trained_looking(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, every parameter and statistic random, so that a constant that is forgotten shows."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(drawn.abs() + 0.1 if tensor.ndim == 1 else drawn / 3)
    return module.eval()


def without(module: nn.Module, found: Shrinking) -> nn.Module:
    """The network as it is built and loaded afterwards."""
    state = module.state_dict()
    after = resized(deepcopy(module), found.surgery.shapes(state))
    after.load_state_dict(found.surgery.tensors(state))
    return after


def shrunk_alike(module: nn.Module, *shape: int, bound: float = 1e-10) -> tuple[nn.Module, Shrinking]:
    """What is left of a network, after making sure that it computes the same on inputs it has not seen."""
    before = deepcopy(module.state_dict())
    found = shrinking(module, torch.randn(2, *shape, dtype=torch.float64))
    after, inputs = without(module, found), 3 * torch.randn(5, *shape, dtype=torch.float64)
    assert output_change(outputs(module, inputs), outputs(after, inputs)) < bound
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    return after, found


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """The shape of every weight of two dimensions or more."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items() if tensor.ndim > 1}


def zero(weight: torch.Tensor, *rows: int) -> None:
    """Zero some rows of a weight."""
    weight.data[list(rows)] = 0
