"""Other starts for the same sparsity, to compare a winning ticket with; and what weights have in common before and after training.

Source: Frankle and Carbin 2019 (arXiv 1803.03635), section 2; Ma et al. 2021 (arXiv 2107.00166), sanity checks; overlap of the largest
weights: Liu et al. 2021 (arXiv 2102.11068).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.keep import top_k
from sparsify_cli.training import guard
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import is_split, split_like, whole


def random_masks(run: Run, like: MaskSet, within: MaskSet) -> MaskSet:
    """Masks with the same counts a layer at random positions inside `within` (where it has a mask); frozen weights stay kept."""
    generator = run.generator(1)
    found = {}
    for name, mask in like.items():
        score = torch.rand(mask.shape, generator=generator)
        if name in within:
            score = score.masked_fill(~within[name].cpu(), -1.0)
        if name in run.frozen:
            score = score.masked_fill(run.frozen[name][0].cpu(), 2.0)
        found[name] = top_k(score.flatten(), int(mask.sum())).view(mask.shape)
    return MaskSet(found)


def draw_anew(run: Run) -> None:
    """Weights drawn anew as their layers draw them, from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.generator(2).initial_seed())
        redraw(run.model)


def redraw(model: nn.Module) -> None:
    """Weights drawn anew as their layers draw them, from torch's random numbers."""
    for layer in model.modules():
        draw = getattr(layer, "reset_parameters", None)
        if draw is not None:
            with _whole_parameters(layer):
                draw()


@contextmanager
def _whole_parameters(layer: nn.Module) -> Iterator[None]:
    """Inside, parameters of which other processes hold rows are whole; afterwards each process has its rows of them as they are then."""
    held = [
        (layer.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], p) for name, p in layer.named_parameters() if is_split(p)
    ]
    for owner, name, parameter in held:
        owner.register_parameter(name, nn.Parameter(whole(parameter)))
    yield
    for owner, name, parameter in held:
        with torch.no_grad():
            parameter.copy_(split_like(owner.get_parameter(name).detach(), parameter))
        owner.register_parameter(name, parameter)


def require_drawable(model: nn.Module) -> None:
    """Make sure that every layer says how its weights are drawn.

    Raises:
        BadRequest: one does not.
    """
    for path, layer in model.named_modules():
        if not hasattr(layer, "reset_parameters") and next(layer.parameters(recurse=False), None) is not None:
            what = f"The layer {path or 'itself'} ({type(layer).__name__}) does not say how its weights are drawn."
            raise BadRequest(what, "It has no reset_parameters().", "Add one to it, or choose another branch.")


@torch.no_grad()
def shuffle(run: Run) -> None:
    """The kept values of each masked weight, permuted among its kept positions; frozen ones stay."""
    generator, parameters = run.generator(3), dict(run.model.named_parameters())
    for name, mask in run.masks.items():
        free = mask & ~run.frozen[name][0] if name in run.frozen else mask
        values = whole(parameters[name])[free]
        order = torch.randperm(len(values), generator=generator).to(values.device)
        guard.put_back(parameters[name], free, values[order])


def overlap(run: Run, start: str, *, top: Fraction) -> float:
    """Share of the largest weights that were among the largest at the start, over all of them together.

    Args:
        run: now.
        start: prefix in `run.memory` of the weights then.
        top: which share counts as the largest, layer by layer.
    """
    weights = run.weights()
    then = run.remembered(start)
    pairs = [(_largest(weights[name], top), _largest(value, top)) for name, value in then.items()]
    both = sum(int((a & b).sum()) for a, b in pairs)
    return both / max(1, sum(int(a.sum()) for a, _ in pairs))


def _largest(weight: Tensor, top: Fraction) -> Tensor:
    return top_k(whole(weight).abs().flatten().cpu(), round(weight.numel() * top))
