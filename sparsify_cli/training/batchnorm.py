"""Batch norm: measure running statistics anew, or keep them still.

Pruning changes what every layer puts out, so the running statistics a network was saved with no longer describe it.
`recalibrate` measures them again as the exact average over batches; `follow` moves them by as much as the inputs moved
away from those of the dense network; `quiet` lets extra forward passes in train mode leave them untouched. Which of them
helps is judged in `stages/norms.py`, on data that none of them saw.

Source: batch-norm tuning as in Peste et al. 2023 (CrAM, arXiv 2207.14200), official `utils/eval_utils.py`; there with
momentum 0.1 and augmented data, here the cumulative average (`momentum=None` of torch), each sample seen once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsify_cli.errors import BadData
from sparsify_cli.training.batches import as_taken_by, handy_batch
from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.arrays import frugal_batch
from sparsify_cli.values.losses import loss
from sparsify_cli.values.samples import Samples

HARDLY = 1e-6
"""A variance over the samples below this part of the running one says nothing of how a channel is scaled."""


def norms(module: nn.Module) -> dict[str, nn.Module]:
    """Path -> layer, of those that keep running statistics."""
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None}


def has_batchnorm(module: nn.Module) -> bool:
    """True when some layer keeps running statistics."""
    return bool(_layers(module))


@torch.no_grad()
def recalibrate(module: nn.Module, inputs: Tensor, *, batch: int) -> None:
    """Reset running statistics and set them to the plain average of the statistics of each batch.

    Only batch-norm layers run in train mode (dropout stays off); modes and momenta are as before afterwards, and so are the statistics of
    layers that no sample comes to.

    Args:
        module: changed in place.
        inputs: [n, ...], n >= 2; moved to the module's device batch by batch.
        batch: samples of one batch, >= 2; a single sample left over joins the batch before it.

    Raises:
        BadData: fewer than two inputs, or a layer that a single one comes to (an expert, say).
    """
    if len(inputs) < 2:
        raise BadData(f"Batch-norm statistics cannot be measured on {len(inputs)} sample.", "A variance needs at least two.")
    before = [(layer, {name: buffer.clone() for name, buffer in layer.named_buffers()}) for layer in _layers(module)]
    try:
        with _measuring(module):
            for part in _parts(inputs, max(2, batch)):
                module(as_taken_by(module, part))
    except ValueError as error:  # torch's word for a single value of a channel
        _put_back(before)
        raise BadData(f"Batch-norm statistics cannot be measured: {str(error)[:80]}.", "A variance needs at least two samples.") from error
    _put_back([(layer, buffers) for layer, buffers in before if not int(dict(layer.named_buffers())["num_batches_tracked"])])


def _put_back(kept: Sequence[tuple[nn.Module, dict[str, Tensor]]]) -> None:
    for layer, buffers in kept:
        for name, buffer in layer.named_buffers():
            buffer.copy_(buffers[name])


@torch.no_grad()
def follow(layer: nn.Module, now: Sequence[Tensor], dense: Sequence[Tensor]) -> None:
    """Move a layer's running statistics by as much as its inputs moved away from those of the dense network.

    As if each channel had been scaled and shifted: the variance moves by the ratio of the variances, the mean by the difference
    of the means, and its distance from that of the samples by the scale. A channel that hardly varied over the samples
    tells no scale. Nothing moves where the inputs are the same: unlike
    `recalibrate` this does not replace what training saw (augmented images, all of them) by what a few samples show.

    Args:
        layer: a batch norm with running statistics; changed in place.
        now: its inputs, batch by batch, [n, channels, ...].
        dense: those of the same samples in the dense network.
    """
    if not any(map(len, now)):
        return
    buffers = dict(layer.named_buffers())
    running_mean, running_var = buffers["running_mean"], buffers["running_var"]
    (mean, variance), (old_mean, old_variance) = (_channel_moments(batches, len(running_mean)) for batches in (now, dense))
    told = old_variance > HARDLY * running_var.double()
    ratio = torch.where(told, variance / old_variance.clamp_min(1e-30), torch.ones_like(variance))
    running_mean += (mean - old_mean + (running_mean.double() - old_mean) * (ratio.sqrt() - 1)).to(running_mean)
    running_var *= ratio.to(running_var)


def _channel_moments(batches: Sequence[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, float64, [channels]; a layer that turns its inputs itself takes channels last."""
    rows = [(batch.movedim(1, -1) if batch.shape[1] == channels else batch).flatten(0, -2) for batch in batches]
    count = sum(len(part) for part in rows)
    mean = torch.stack([part.sum(0, dtype=torch.float64) for part in rows]).sum(0) / count
    variance = torch.stack([(part - mean).square().sum(0, dtype=torch.float64) for part in rows]).sum(0) / count
    return mean, variance


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


def _layers(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _measuring(module: nn.Module) -> Iterator[None]:
    """Batch-norm layers in train mode, reset, averaging cumulatively; everything else in eval mode."""
    with evaluating(module), ExitStack() as after:
        for layer in _layers(module):
            after.callback(setattr, layer, "momentum", layer.momentum)
            layer.momentum = None
            layer.reset_running_stats()
            layer.train()
        yield


@torch.no_grad()
def mean_loss(module: nn.Module, samples: Samples) -> float:
    """Mean loss in eval mode: cross-entropy, nats, with attributes that of an attribute, of texts that of a token; or squared error."""
    total = 0.0
    with evaluating(module):
        size = handy_batch(module) if samples.chooses else frugal_batch(module, module(as_taken_by(module, samples.inputs[:1])))
        for inputs, targets in zip(samples.inputs.split(size), samples.targets.split(size), strict=True):
            total += float(loss(module(as_taken_by(module, inputs)).cpu().double(), targets, reduction="sum"))
    return total / max(1, int((samples.targets >= 0).sum()) if samples.texts else samples.targets.numel())


def _parts(inputs: Tensor, size: int) -> Iterator[Tensor]:
    ends = [*range(size, len(inputs) - 1, size), len(inputs)]
    return (inputs[start:end] for start, end in zip([0, *ends], ends, strict=False))
