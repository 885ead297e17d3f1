"""Images with their channels last in memory, where a network takes them so.

On a processor most convolutions are up to 1.5 times, pools about four times as fast on them, in float32. A network that flattens by `view`
what a convolution puts out refuses them, and one that looks at the memory itself might answer differently; so noisy copies of two samples
are tried first, and what goes there and comes back is compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Num
from torch import Tensor, nn

from sparsify_cli.values.arrays import as_taken_by

FEW = 2
"""Samples that are tried."""
CLOSE = 1e-3
"""By how much answers, and gradients of a tensor, may differ, relative to the largest: rounding in another order."""
FASTER = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
"""Layers that gain."""


def order_for(module: nn.Module, inputs: Num[Tensor, "n ..."]) -> Callable[[Tensor], Tensor]:
    """What lays inputs out in memory: as they are, or copied with their channels last.

    Args:
        module: in eval mode; it and the state of random numbers stay as they are.
        inputs: images or anything else; two are tried.
    """
    images = inputs.ndim == 4 and inputs.is_floating_point() and len(inputs) > 0
    gains = any(isinstance(part, FASTER) for part in module.modules())
    usual = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in module.parameters())
    return channels_last if images and gains and usual and _answered_alike(module, as_taken_by(module, inputs[:FEW])) else _as_they_are


def channels_last(images: Num[Tensor, "n c h w"]) -> Num[Tensor, "n c h w"]:
    """Copied, for of a single channel both orders are the same to torch, and layers choose theirs by the strides."""
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def _as_they_are(inputs: Tensor) -> Tensor:
    return inputs


def _answered_alike(module: nn.Module, few: Tensor) -> bool:
    """Whether both orders give the same answers, and the same gradients of what counts of them."""
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(0))
    noisy = few + noise * (float(few.std(correction=0)) or 1.0) / 4  # of blank images any order is the same
    try:
        with torch.random.fork_rng(devices=[]):
            plain, found = _there_and_back(module, noisy.clone()), _there_and_back(module, channels_last(noisy))
        return all(bool((one - other).abs().max() <= CLOSE * one.abs().max()) for one, other in zip(plain, found, strict=True))
    except Exception:  # a `view` of what does not lie in the order it counts on, or whatever else a network says of that
        return False


@torch.enable_grad()
def _there_and_back(module: nn.Module, images: Tensor) -> list[Tensor]:
    """Answers, and the gradients of a sum that weights each output by its place, so that what all share does not hide the rest."""
    out = module(images)
    moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not (out.requires_grad and moving):
        return [out]
    weights = torch.linspace(-1, 1, max(2, out.shape[-1]))[: out.shape[-1]]
    found = torch.autograd.grad((out * weights).sum(), moving, allow_unused=True)
    return [out.detach(), *(one for one in found if one is not None)]
