"""The empirical Fisher matrix of a network's prunable weights: gradients of single samples, tensor by tensor, and its blocks.

    F = lambda I + (1/m) sum_i g_i g_i^T          g_i = gradient of the loss of sample i, network in eval mode
    lambda = damping * mean diagonal of (1/m) sum_i g_i g_i^T over weights that are not zero

Weights that are zero are out of the matrix: their gradients are set to zero, so that they decouple from all others.
A tensor is flattened in storage order, or, for blocks of R x C, block of the pattern after block of the pattern; its blocks of
the Fisher matrix are consecutive parts of that, so that rows and layers never mix with the next tensor's.

Source: Singh and Alistarh 2020 (WoodFisher, arXiv 2004.14340), sections 3 and 4. Differs: blocks are summed in float64 while
gradients stream by, which holds block * d numbers and not m * d; damping is relative, because the size of gradients differs by
orders of magnitude between networks (1e-5 and 1e-8 of published code fit ImageNet alone).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.errors import Anomalous, BadRequest
from sparsify_cli.maths.fisher import add_gram, empty_gram
from sparsify_cli.maths.loss_gradients import REFUSALS, private_copy
from sparsify_cli.maths.matrix_view import from_blocks, from_matrix, matrix_shape, obstacle, to_blocks, to_matrix
from sparsify_cli.maths.per_sample_gradients import CHUNK_NUMBERS, Coordinates, per_sample_gradients
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.network import Network

ROWS = 16
"""Gradients of a chunk at most: what the network remembers of its samples on the way grows with it, and speed does not."""


def drawn(network: Network, count: int, stage: int = 0) -> Int[Tensor, " m"]:
    """Which samples are differentiated: at most `count`, ascending; drawn anew in every stage."""
    generator = torch.Generator().manual_seed(network.seed + stage)
    return torch.randperm(len(network.inputs), generator=generator)[:count].sort().values


def gradient_chunks(network: Network, samples: Int[Tensor, " m"]) -> Iterator[dict[str, Float[Tensor, "rows d"]]]:
    """Gradients of single samples, nats, some samples at a time: for each tensor by name one row a sample, in storage order.

    Args:
        network: stays as it is; its batch norm uses running statistics.
        samples: rows of its inputs.

    Raises:
        Anomalous: a gradient is NaN or infinite.
        BadRequest: the network's operations cannot be differentiated.
    """
    copied = private_copy(network, network.weights())
    shapes = {inside: copied.parameters()[name].shape for name, inside in network.names.items()}
    sizes = [shape.numel() for shape in shapes.values()]
    step = chunk_numbers(sum(sizes)) // max(1, sum(sizes))
    inputs, targets = network.inputs[samples], network.targets[samples]
    chunks = per_sample_gradients(copied.module, inputs, targets, Coordinates(shapes, {}), chunk=step)
    try:
        for chunk in chunks:
            rows = dict(zip(network.names, chunk.split(sizes, dim=1), strict=True))
            _require_finite(rows)
            yield rows
    except REFUSALS as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadRequest(
            f"The network cannot be differentiated: {said[:200]}.", "This solver needs gradients.", "Choose another --solver."
        ) from error


def chunk_numbers(weights: int) -> int:
    """Numbers that a chunk of gradients of so many weights holds."""
    return max(1, min(ROWS, CHUNK_NUMBERS // max(1, weights))) * weights


@dataclass(frozen=True)
class Order:
    """The order in which a tensor's weights are flattened."""

    shape: tuple[int, ...]
    pattern: Pattern = Pattern()

    @property
    def unit(self) -> int:
        """Consecutive weights that stay or go together."""
        return self.pattern.block_size if obstacle(self.shape, self.pattern) is None else 1

    def flat(self, tensor: Tensor) -> Tensor:
        """The tensor in this order."""
        return tensor.reshape(-1) if self.unit == 1 else to_blocks(to_matrix(tensor), self.pattern.rows, self.pattern.columns).reshape(-1)

    def shaped(self, flat: Tensor) -> Tensor:
        """The inverse of `flat`."""
        if self.unit == 1:
            return flat.reshape(self.shape)
        blocks = flat.reshape(-1, self.unit)
        return from_matrix(from_blocks(blocks, matrix_shape(self.shape), self.pattern.rows, self.pattern.columns), self.shape)

    def rows(self, gradients: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
        """Gradients in storage order -> in this order."""
        if self.unit == 1:
            return gradients
        return gradients[:, self.flat(torch.arange(gradients.shape[1], device=gradients.device).reshape(self.shape))]

    def width(self, block: int) -> int:
        """`block` rounded up to whole units, and at most the tensor."""
        return min(-(-block // self.unit) * self.unit, max(1, Order._count(self.shape)))

    @staticmethod
    def _count(shape: tuple[int, ...]) -> int:
        return torch.Size(shape).numel()


@dataclass(frozen=True, eq=False)
class Blocks:
    """Diagonal blocks of (1/m) sum g g^T, and the damping that goes with them.

    Args:
        grams: name -> [blocks, size, size], float64, not damped; the last block is padded with zeros.
        damping: lambda, absolute, > 0.
    """

    grams: Mapping[str, Float[Tensor, "blocks size size"]]
    damping: float


def fisher_blocks(network: Network, samples: Int[Tensor, " m"], orders: Mapping[str, Order], *, block: int, damping: float) -> Blocks:
    """Sum the blocks over some samples.

    Args:
        network: stays as it is.
        samples: rows of its inputs.
        orders: name -> how the tensor is flattened.
        block: consecutive weights of a block.
        damping: relative to the mean diagonal.

    Raises:
        Anomalous: a gradient is NaN or infinite.
    """
    live = live_weights(network)
    grams = {name: empty_gram(mask.numel(), orders[name].width(block), mask) for name, mask in live.items()}
    for rows in gradient_chunks(network, samples):
        for name, gradients in rows.items():
            add_gram(grams[name], orders[name].rows(gradients * live[name]))
    for gram in grams.values():
        gram /= len(samples)
    trace = sum(float(gram.diagonal(dim1=-2, dim2=-1).sum()) for gram in grams.values())
    return Blocks(grams, absolute(damping, trace, live))


def live_weights(network: Network) -> dict[str, Bool[Tensor, " d"]]:
    """Where the weights are not zero, in storage order."""
    return {name: weight.reshape(-1) != 0 for name, weight in network.weights().items()}


def absolute(damping: float, trace: float, live: Mapping[str, Tensor]) -> float:
    """Relative damping -> lambda; 1 takes the place of a mean diagonal of zero, when every gradient is zero."""
    count = sum(int(mask.sum()) for mask in live.values())
    return damping * (trace / count if trace > 0 and count else 1.0)


def block_bytes(sizes: Sequence[int], block: int) -> int:
    """Bytes of the float64 blocks of tensors of these sizes."""
    return sum(8 * -(-size // min(block, size)) * min(block, size) ** 2 for size in sizes if size)


def _require_finite(rows: Mapping[str, Tensor]) -> None:
    for name, gradients in rows.items():
        wrong = int((~gradients.isfinite().all(1)).sum())
        if wrong:
            raise Anomalous(
                f"The gradient of {name} is not finite for {wrong} of {len(gradients)} samples.",
                "The loss overflows, or has no derivative, there.",
                "Check the network and the data.",
            )
