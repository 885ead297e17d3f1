"""Images with their channels last in memory, where a network takes them so.

On a processor convolutions are up to 1.5 times, pools about four times as fast on them. A network that flattens by `view` what a
convolution puts out refuses them, and one that looks at the memory itself might answer differently; so two samples are tried first,
there and back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Num
from torch import Tensor, nn

from sparsify_cli.values.arrays import as_taken_by

FEW = 2
"""Samples that are tried."""
CLOSE = 1e-4
"""By how much answers may differ, relative to the largest: rounding in another order."""


def order_for(module: nn.Module, inputs: Num[Tensor, "n ..."]) -> Callable[[Tensor], Tensor]:
    """What lays inputs out in memory as a network is fastest on: as they are, or copied with their channels last.

    Args:
        module: in eval mode.
        inputs: images or anything else; the first two are tried.
    """
    if inputs.ndim != 4 or not inputs.is_floating_point() or not len(inputs):
        return _as_they_are
    few = as_taken_by(module, inputs[:FEW])
    return channels_last if few.device.type == "cpu" and _answered_alike(module, few) else _as_they_are


def channels_last(images: Num[Tensor, "n c h w"]) -> Num[Tensor, "n c h w"]:
    """Copied, for of a single channel both orders are the same to torch, and layers choose theirs by the strides."""
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def _as_they_are(inputs: Tensor) -> Tensor:
    return inputs


@torch.enable_grad()
def _answered_alike(module: nn.Module, few: Tensor) -> bool:
    plain = module(few)
    try:
        found = module(channels_last(few))
        if not (isinstance(plain, Tensor) and isinstance(found, Tensor) and plain.shape == found.shape):
            return False
        if found.requires_grad:
            torch.autograd.grad(found.sum(), [p for p in module.parameters() if p.requires_grad], allow_unused=True)
    except Exception:  # a `view` of what does not lie in the order it counts on, or whatever else it says of that
        return False
    return bool((plain - found).abs().max() <= CLOSE * plain.abs().max())
