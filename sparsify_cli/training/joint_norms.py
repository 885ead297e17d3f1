"""Batch norm over the whole batch of several processes, so that they take the step that one process takes, up to rounding.

    mean = sum over processes of sum(x) / n        var = sum over processes of sum((x - mean)^2) / n        n = all values of a channel

in float32 at least. The sums are all-reduced, and so are their gradients on the way back: with losses averaged over processes, the
gradient that is averaged is that of the whole batch's loss. Buffers move as torch's own layers move them, alike on every process.

Layers keep their class, names and numbers; only `forward` of each is another while it trains. Torch's own synchronised layer does the same
on accelerators and refuses processors.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), algorithm 1, of a batch that lies on several processes.
"""

from __future__ import annotations

from types import MethodType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def normalise_together(module: nn.Module) -> None:
    """Let every batch norm of a module normalise by the batch of all processes in train mode; in eval mode nothing changes."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and type(layer).forward is _BatchNorm.forward:  # not torch's own joint one, nor a user's
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: _BatchNorm, x: Float[Tensor, "n c *rest"]) -> Float[Tensor, "n c *rest"]:
    if not layer.training or not dist.is_initialized():
        return type(layer).forward(layer, x)
    precise = x if x.dtype == torch.float64 else x.float()
    count = precise.new_tensor([x.numel() // x.shape[1]])
    dist.all_reduce(count)
    mean = _summed(precise) / count
    apart = precise - _as_channels(mean, x)
    var = _summed(apart.square()) / count
    _move(layer, mean.detach(), var.detach() * (count / (count - 1).clamp_min(1)))
    found = apart * _as_channels((var + layer.eps).rsqrt(), x)
    if layer.affine:
        found = found * _as_channels(layer.weight, x) + _as_channels(layer.bias, x)
    return found.to(x.dtype)


def _summed(x: Float[Tensor, "n c *rest"]) -> Float[Tensor, " c"]:
    """The sum of each channel over all processes."""
    total: Tensor = all_reduce(x.transpose(0, 1).flatten(1).sum(1))
    return total


def _as_channels(value: Float[Tensor, " c"], like: Float[Tensor, "n c *rest"]) -> Tensor:
    return value.reshape(1, -1, *(1 for _ in like.shape[2:]))


@torch.no_grad()
def _move(layer: _BatchNorm, mean: Float[Tensor, " c"], var: Float[Tensor, " c"]) -> None:
    """Running statistics towards those of this batch, by `momentum`, or as the mean of all batches where that is None."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    share = layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        share = 1 / float(layer.num_batches_tracked) if share is None else share
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share or 0.0)
    layer.running_var.lerp_(var.to(layer.running_var.dtype), share or 0.0)
