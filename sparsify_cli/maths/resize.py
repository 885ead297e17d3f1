"""A network with some of its tensors smaller, or with more outputs: layers keep their class and settings, and know their new sizes.

Nothing of a network's code is changed, so that code which counts channels itself may no longer run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.maths.channel_spaces import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED
from sparsify_cli.maths.fewer_heads import FewerHeads, with_fewer_heads


def resized(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """The module itself, with tensors cut to new shapes: their first entries stay, shared ones stay shared.

    A linear layer may get more outputs than it has, as a new classifier has; they are zero.

    Args:
        module: changed in place.
        shapes: name in its state dict -> new shape; the name of a bias that is not there adds one of zeros.

    Raises:
        KeyMismatch: a tensor is not there, or smaller than it should become.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for name, shape in shapes.items():
        path, _, leaf = name.rpartition(".")
        owner = _owner(module, path, name)
        old = getattr(owner, leaf, None)
        width = owner.out_channels // owner.groups if isinstance(owner, CONVOLUTIONS) and owner.groups > 1 else 0
        if old is None:
            _add_bias(owner, leaf, name, shape)
        elif tuple(old.shape) != tuple(shape):
            _, new = made.setdefault(id(old), (old, _cut(old, name, shape, may_grow=isinstance(owner, nn.Linear))))
            setattr(owner, leaf, new)
            _know_sizes(owner, width)
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder) and any(isinstance(inner, FewerHeads) for inner in part.modules()):
            part.use_nested_tensor = False  # its fused path knows other heads
    return module


def _owner(module: nn.Module, path: str, name: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise _misfit(name, "the architecture has no such layer") from error


def _add_bias(owner: nn.Module, leaf: str, name: str, shape: Sequence[int]) -> None:
    weight = getattr(owner, "weight", None)
    if leaf != "bias" or not isinstance(weight, Tensor):
        raise _misfit(name, "the architecture has no such tensor")
    if list(shape) != list(weight.shape[:1]):
        raise _misfit(name, f"its layer has {weight.shape[0]} outputs, the bias {list(shape)}")
    owner.register_parameter(leaf, nn.Parameter(torch.zeros(tuple(shape), dtype=weight.dtype, device=weight.device)))


def _cut(old: Tensor, name: str, shape: Sequence[int], *, may_grow: bool) -> Tensor:
    limits = [max(shape[0], old.shape[0]) if may_grow and shape else size for size in old.shape[:1]] + list(old.shape[1:])
    if len(shape) != old.ndim or any(not 0 < new <= limit for new, limit in zip(shape, limits, strict=True)):
        raise _misfit(name, f"it was cut to {list(shape)} and is {list(old.shape)}")
    new = old.new_zeros(tuple(shape))
    common = tuple(slice(min(size, there)) for size, there in zip(shape, old.shape, strict=True))
    new[common] = old.detach()[common]
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _know_sizes(layer: Any, width: int) -> None:
    """Counts that a layer keeps beside its tensors; of `width` outputs in a group (0 = there are none) the last one may lose some."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, CONVOLUTIONS):
        layer.out_channels = len(layer.weight)
        layer.groups = max(1, layer.out_channels // width) if width else layer.groups
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.MultiheadAttention):
        with_fewer_heads(layer)
    elif isinstance(layer, TRANSPOSED):
        layer.in_channels, layer.out_channels = layer.weight.shape[:2]
    elif isinstance(layer, BATCH_NORMS):
        layer.num_features = len(layer.running_mean if layer.running_mean is not None else layer.weight)
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)


def _misfit(name: str, why: str) -> KeyMismatch:
    return KeyMismatch(
        f"The network cannot be made as small as it was: {name} does not fit.",
        f"{why[0].upper()}{why[1:]}.",
        "Name the architecture that was shrunk with --arch and --arch-arg, as it was then.",
    )
