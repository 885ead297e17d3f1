"""Batch norm: measure running statistics anew, or keep them still.

Pruning changes what every layer puts out, so the running statistics a network was saved with no longer describe it.
`recalibrate` measures them again as the exact average over batches; `reestimated` does so only if that helps on data it
did not measure; `quiet` lets extra forward passes in train mode leave them untouched.

Source: batch-norm tuning as in Peste et al. 2023 (CrAM, arXiv 2207.14200), official `utils/eval_utils.py`; there with
momentum 0.1 and augmented data, here the cumulative average (`momentum=None` of torch), each sample seen once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sparsify_cli.errors import BadData
from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.values.samples import Samples


@dataclass(frozen=True)
class Reestimate:
    """What re-estimating batch-norm statistics did.

    Args:
        before: mean cross-entropy on the held-out samples with the old statistics, nats.
        after: the same with the new ones.
        kept: whether the new statistics stay.
    """

    before: float
    after: float
    kept: bool


def has_batchnorm(module: nn.Module) -> bool:
    """True when some layer keeps running statistics."""
    return bool(_layers(module))


@torch.no_grad()
def recalibrate(module: nn.Module, inputs: Tensor, *, batch: int) -> None:
    """Reset running statistics and set them to the plain average of the statistics of each batch.

    Only batch-norm layers run in train mode (dropout stays off); modes and momenta are as before afterwards.

    Args:
        module: changed in place.
        inputs: [n, ...], n >= 2; moved to the module's device batch by batch.
        batch: samples of one batch, >= 2; a single sample left over joins the batch before it.

    Raises:
        BadData: fewer than two inputs.
    """
    if len(inputs) < 2:
        raise BadData(f"Batch-norm statistics cannot be measured on {len(inputs)} sample.", "A variance needs at least two.")
    with _measuring(module):
        for part in _parts(inputs, max(2, batch)):
            module(as_taken_by(module, part))


@contextmanager
def quiet(module: nn.Module) -> Iterator[None]:
    """Inside, forward passes in train mode normalise by their batch as usual but leave running statistics untouched."""
    layers = _layers(module)
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def reestimated(module: nn.Module, train_samples: Samples, held_out_samples: Samples, *, batch: int = 128) -> Reestimate:
    """Recalibrate on training data; keep it only if the cross-entropy on held-out training data falls.

    Otherwise the old statistics are restored bit for bit. Nothing happens to a module without running statistics.

    Args:
        module: changed in place.
        train_samples: measured.
        held_out_samples: judged on; training data, disjoint from `train_samples`, never the test split.
        batch: samples of one batch.
    """
    before = _cross_entropy(module, held_out_samples, batch)
    if not has_batchnorm(module):
        return Reestimate(before, before, kept=False)
    saved = [(buffer, buffer.clone()) for layer in _layers(module) for buffer in layer.buffers()]
    recalibrate(module, train_samples.inputs, batch=batch)
    after = _cross_entropy(module, held_out_samples, batch)
    kept = math.isfinite(after) and not after >= before
    if not kept:
        for buffer, old in saved:
            buffer.copy_(old)
    return Reestimate(before, after, kept)


def _layers(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _measuring(module: nn.Module) -> Iterator[None]:
    """Batch-norm layers in train mode, reset, averaging cumulatively; everything else in eval mode."""
    with _modes_restored(module), ExitStack() as after:
        module.eval()
        for layer in _layers(module):
            after.callback(setattr, layer, "momentum", layer.momentum)
            layer.momentum = None
            layer.reset_running_stats()
            layer.train()
        yield


@contextmanager
def _modes_restored(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@torch.no_grad()
def _cross_entropy(module: nn.Module, samples: Samples, batch: int) -> float:
    """Mean cross-entropy in eval mode, nats."""
    with _modes_restored(module):
        module.eval()
        logits = torch.cat([module(as_taken_by(module, part)).cpu() for part in torch.split(samples.inputs, batch)])
    return float(functional.cross_entropy(logits.double(), samples.targets))


def _parts(inputs: Tensor, size: int) -> Iterator[Tensor]:
    ends = [*range(size, len(inputs) - 1, size), len(inputs)]
    return (inputs[start:end] for start, end in zip([0, *ends], ends, strict=False))
