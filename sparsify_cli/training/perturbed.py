"""Two gradients a step: one at the weights, one on the same batch at weights moved away from them; then everything is put back.

    here    = first_pass      loss and gradient at theta
    there   = second_pass     loss and gradient at whatever `elsewhere` holds
    descend                   optimizer step from theta along a gradient made of both

What both passes share and what only the first may change:

    batch             the same: `loss` closes over it
    random numbers    the second pass draws those that the first drew (dropout, stochastic depth); afterwards the generator
                      stands where one pass leaves it
    buffers           the second pass starts from those the first started from, and the step ends with those the first left:
                      running statistics of batch norms of every kind, of instance norms, vectors of spectral norms
    weights           put back bit for bit from a copy, also when the second pass fails
    masked, frozen    their gradients are zero in both passes, so nothing moves them; both are averaged over processes

Source: Foret et al. 2021 (SAM, arXiv 2010.01412), algorithm 1; Peste et al. 2023 (CrAM, arXiv 2207.14200), official
`optimization/custom_optimizers.py`. Differs: CrAM's code keeps only the statistics of `BatchNorm2d` still and draws dropout
anew; the perturbation follows the gradient averaged over processes (Foret et al. perturb each by its own).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsify_cli.training import guard
from sparsify_cli.values.run import Run

Gradients = Mapping[str, Tensor]
"""Parameter name -> gradient; parameters that the loss does not reach are absent."""


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward and a backward pass.

    Args:
        loss: detached.
        gradients: averaged over processes; zero at masked and frozen weights.
        buffers: copies of those it started from.
    """

    loss: Tensor
    gradients: Gradients
    buffers: Mapping[str, Tensor] = field(default_factory=dict)


def first_pass(run: Run, loss: Callable[[], Tensor]) -> Pass:
    """The ordinary pass at the current weights, which buffers follow."""
    before, device = _copies(run.model), next(run.model.parameters()).device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        value, gradients = _gradients(run, loss)
    return Pass(value, gradients, before)


@contextmanager
def elsewhere(run: Run, here: Pass) -> Iterator[None]:
    """Inside, weights may be moved; afterwards weights are what they were and buffers what `here` left."""
    home = {name: weight.clone() for name, weight in run.weights().items()}
    after = _copies(run.model)
    try:
        _put(run.model.named_buffers(), here.buffers)
        yield
    finally:
        _put(run.model.named_parameters(), home)
        _put(run.model.named_buffers(), after)


def second_pass(run: Run, loss: Callable[[], Tensor]) -> Pass:
    """A pass inside `elsewhere`, on the random numbers of the first."""
    return Pass(*_gradients(run, loss))


@torch.no_grad()
def move(run: Run, gradients: Gradients, scale: float | Tensor) -> None:
    """Weights <- weights + scale * gradients."""
    for name, parameter in run.model.named_parameters():
        if name in gradients:
            parameter.add_(gradients[name] * scale)


def norm(gradients: Gradients) -> Tensor:
    """Euclidean norm over all parameters together."""
    length: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients.values()]))
    return length


def descend(run: Run, gradients: Gradients) -> None:
    """One guarded optimizer step along a given gradient."""
    for name, parameter in run.model.named_parameters():
        parameter.grad = gradients.get(name)
    guard.update(run)


def _gradients(run: Run, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    value = guard.gradients(run, loss)
    guard.mask_gradients(run)
    found = {name: parameter.grad for name, parameter in run.model.named_parameters() if parameter.grad is not None}
    # Copies: several processes may keep gradients as views of buckets, which the next pass overwrites.
    return value, {name: gradient.clone() for name, gradient in found.items()}


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def _put(tensors: Iterator[tuple[str, Tensor]], values: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors:
        value = values.get(name)
        if value is not None and value.shape == tensor.shape:  # a buffer that the first pass made or let grow stays
            tensor.copy_(value)
