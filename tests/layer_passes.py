"""Passes over layers for tests: half of the weights of some go, by a solver or the simplest one there is."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import LayerSolver
from sparsify_cli.maths.keep import top_k
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.sparsegpt import SparseGPT
from sparsify_cli.stages.layerwise import Pass


@dataclass(frozen=True)
class Largest(LayerSolver):
    """Keeps the largest weights as they are, and notes what it was given."""

    sequential: bool = True

    def solve(self, weight, gram, keep):
        mask = top_k(weight.abs().flatten(), keep.count).view_as(weight)
        return weight * mask, mask


def half(net, *names):
    """Masks that keep half of each weight."""
    masks = {}
    for name in names:
        weight = net.get_parameter(name)
        masks[name] = (torch.arange(weight.numel()) % 2 == 0).view_as(weight)
    return masks


def run(net, x, *names, solver=None, **options):
    """A network after a pass over some weights, the dense one, and the layers."""
    module = copy.deepcopy(net)
    work = Pass(solver or SparseGPT(), options.pop("pattern", Pattern()), options.pop("pruned", {}), batch=4, **options)
    return module, work.run(module, copy.deepcopy(net), x, half(net, *names), Listener())
