"""Gradients of a network's own loss over its calibration samples, and products of its Hessian with a vector.

    g_i     = dL/dtheta_i                     L = mean loss over the samples
    (Hv)_i  = d(sum_j v_j g_j)/dtheta_i       by differentiating twice: H is never formed
    E[g_i^2] over single samples              diagonal of the empirical Fisher matrix

Everything runs on a private copy in float32 or wider, in nearly equal batches, so that memory is that of one batch; sums
over batches are float64. What a network's operations cannot do is said in one sentence.

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian" (the product); the Fisher diagonal as in Hassibi and Stork 1993.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from sparsify_cli.errors import BadData, BadRequest, KeyMismatch, NonFinite
from sparsify_cli.maths.per_sample_gradients import Coordinates, per_sample_gradients
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.copies import copy_of, in_type
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network

Gradients = dict[str, Tensor]
"""Name of a prunable tensor -> float64 tensor of its shape; names sorted."""

BatchNorm = Literal["batch", "running"]
"""Whether batch norm divides by the statistics of the batch or by those gathered in training."""

REFUSALS = (RuntimeError, IndexError, TypeError, ValueError, AttributeError)
"""What torch and networks' own code raise for what they cannot do."""


def private_copy(
    network: Network, weights: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32, batch_norm: BatchNorm = "running"
) -> Network:
    """A copy that holds `weights` and may be spoilt: in eval mode, only those tensors differentiable, names sorted.

    Args:
        network: stays as it is.
        weights: values of some or all of its prunable tensors.
        dtype: the narrowest the copy may have.
        batch_norm: statistics that batch norm uses; dropout is off either way.

    Raises:
        KeyMismatch: the network has no such tensor, or it has another shape.
        BadRequest: the network cannot be copied.
    """
    _require_fit(network, weights)
    with explained("copied"):
        module = copy_of(network.module).eval()
        in_type(module, _widest(module, dtype)).requires_grad_(False)
    copied = replace(network, module=module, names={name: network.names[name] for name in sorted(weights)})
    copied.put(weights)
    for parameter in copied.parameters().values():
        parameter.requires_grad_(True)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(batch_norm == "batch")
    return copied


def batch_gradients(network: Network, *, batch: int = 0, least: int = 1) -> Iterator[tuple[float, Gradients]]:
    """Each batch's share of the samples, and the gradient of its mean loss.

    Args:
        network: a private copy.
        batch: samples of one pass at most; 0 = the network's.
        least: batches there are at least, if there are as many samples.

    Raises:
        NonFinite: a gradient is NaN or infinite.
        BadRequest: the network's operations cannot be differentiated.
    """
    for share, inputs, targets in _batches(network, batch, least):
        with explained("differentiated"):
            gradients = _gradients(network, network.loss(inputs, targets))
        yield share, _finite("gradient", {name: gradient.detach().double() for name, gradient in gradients.items()})


def loss_gradient(network: Network, *, least: int = 1) -> Gradients:
    """Gradient of the mean loss over all samples; arguments and errors of `batch_gradients`."""
    return _mean(batch_gradients(network, least=least))


def hessian_product(network: Network, direction: Mapping[str, Tensor], *, least: int = 1) -> Gradients:
    """H v of the mean loss over all samples, each batch's graph freed before the next.

    Args:
        network: a private copy.
        direction: v by name.
        least: as in `batch_gradients`.

    Raises:
        NonFinite: a product is NaN or infinite.
        BadRequest: the network's operations cannot be differentiated twice.
    """
    return _mean(_hessian_products(network, direction, least))


def squared_gradients(network: Network) -> Gradients:
    """E[g_i^2] over single samples: batched where the network's operations allow, one sample after another where not.

    Raises:
        NonFinite: a square is NaN or infinite.
        BadRequest: the network's operations cannot be differentiated.
    """
    next(batch_gradients(network, batch=1))  # says what cannot be differentiated; `torch.func` may take it for constant
    with explained("differentiated"):
        return _finite("squared gradient", _squares(network))


@contextmanager
def explained(asked: str) -> Iterator[None]:
    """Inside, what torch or a network's own code refuses becomes one sentence; `asked` ends `The network cannot be`.

    Raises:
        BadRequest: something was refused.
    """
    try:
        yield
    except REFUSALS as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadRequest(
            f"The network cannot be {asked}: {said[:200]}.", "The criterion needs that to rank weights.", "Choose another --criterion."
        ) from error


def _hessian_products(network: Network, direction: Mapping[str, Tensor], least: int) -> Iterator[tuple[float, Gradients]]:
    for share, inputs, targets in _batches(network, 0, least):
        # Fused attention has no second derivative; its plain form has.
        with explained("differentiated twice"), sdpa_kernel(SDPBackend.MATH):
            gradients = _gradients(network, network.loss(inputs, targets), create_graph=True)
            products = _second(network, gradients, direction)
        yield share, _finite("Hessian product", {name: product.detach().double() for name, product in products.items()})


def _second(network: Network, gradients: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
    along = [(gradient * direction[name].to(gradient)).sum() for name, gradient in gradients.items() if gradient.requires_grad]
    there = network.parameters()
    for parameter in there.values():
        parameter.grad = None
    if along:  # else the gradient is constant
        # Not `autograd.grad`: it walks only towards the weights, past the node by which a function that can be differentiated
        # once says so, and its part of the product would be missing without a word.
        torch.stack(along).sum().backward()
    return {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in there.items()}


def _gradients(network: Network, value: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
    there = network.parameters()
    found = torch.autograd.grad(value, list(there.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True)
    return dict(zip(there, found, strict=True))


def _batches(network: Network, batch: int, least: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    total = len(network.inputs)
    if not total:
        raise _no_samples()
    # Nearly equal: a last batch of one sample would have no variance for batch norm.
    count = min(total, max(least, math.ceil(total / (batch or network.batch))))
    for inputs, targets in zip(network.inputs.tensor_split(count), network.targets.tensor_split(count), strict=True):
        taken = as_taken_by(network.module, inputs)
        yield len(inputs) / total, taken, targets.to(taken.device)


def _squares(network: Network) -> Gradients:
    coordinates = Coordinates.of(network.module, MaskSet())
    total = torch.zeros(coordinates.count, dtype=torch.float64)
    for rows in per_sample_gradients(network.module, network.inputs, network.targets, coordinates):
        total = total.to(rows.device) + torch.linalg.vector_norm(rows, dim=0, dtype=torch.float64).square()
    parts = (total / len(network.inputs)).split([shape.numel() for shape in coordinates.shapes.values()])
    inside = {name: part.reshape(shape) for (name, shape), part in zip(coordinates.shapes.items(), parts, strict=True)}
    return {name: inside[there] for name, there in network.names.items()}


def _mean(weighted: Iterator[tuple[float, Gradients]]) -> Gradients:
    total: Gradients = {}
    for share, gradients in weighted:
        for name, gradient in gradients.items():
            total[name] = total[name].add_(gradient, alpha=share) if name in total else gradient * share
    return total


def _finite(noun: str, gradients: Gradients) -> Gradients:
    for name, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            raise NonFinite(
                f"The {noun} of {name} has {int((~gradient.isfinite()).sum())} of {gradient.numel()} entries NaN or infinite.",
                "The loss overflows, or has no derivative, at some calibration sample.",
                "Check the network and the data, or choose another --criterion.",
            )
    return gradients


def _widest(module: nn.Module, dtype: torch.dtype) -> torch.dtype:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype


def _require_fit(network: Network, weights: Mapping[str, Tensor]) -> None:
    there = {name: tuple(parameter.shape) for name, parameter in network.parameters().items()}
    for name, weight in weights.items():
        if there.get(name) != tuple(weight.shape):
            raise KeyMismatch(
                f"The weights of {name!r} have shape {tuple(weight.shape)}; in the network they are {there.get(name, 'absent')}.",
                "Gradients are taken in the network.",
                f"Leave the tensor dense with --skip {name}, or choose a criterion that looks at weights alone.",
            )


def _no_samples() -> BadData:
    return BadData("There are no calibration samples.", "The loss is computed on them.", "Give --data with training samples.")
