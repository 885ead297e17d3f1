"""What a layer's inputs look like now, and how they go together with those it had in the dense network.

With the rows x of the inputs now and z of the same rows in the dense network, n of them:

    gram    X X^T / n             what a change of the weight costs
    aims    W Z X^T / n           how the dense outputs go together with what comes in now
    mean, dense_mean              of x and of z, for the bias
    power   |W z|^2 / n           mean square of the dense outputs, summed over outputs

The weight that imitates the dense outputs W z best on the inputs now is W' = aims gram^-1. Pruning W' on `gram` therefore
minimises |W z - V x|^2 over V: the same problem as pruning W on its own inputs, only with another target.

Source: sequential calibration as in Frantar and Alistarh 2023 (arXiv 2301.00774); dense outputs as target are an extension
that their code leaves out (both use W x). Rows of a convolution are far more than its columns: past `ENOUGH` rows a column,
a fixed random part of them is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparsify_cli.maths.gram import CHUNK, chosen_rows, damped, gram_shape, row_count, rows_at
from sparsify_cli.maths.matrix_view import to_matrix

ENOUGH = 256
"""Rows a column from which more of them add little; never fewer than `LEAST` rows."""

LEAST = 1 << 17


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of a layer's inputs; float64, [groups, columns, columns], [groups, out, columns] and [groups, columns].

    Args:
        rows: how many rows were taken (of one group).
        gram, aims: X X^T / n and W Z X^T / n.
        mean, dense_mean: E[x] and E[z].
        power: E|W z|^2, summed over all outputs of all groups.
    """

    rows: int
    gram: Float[Tensor, "groups columns columns"]
    aims: Float[Tensor, "groups out columns"]
    mean: Float[Tensor, "groups columns"]
    dense_mean: Float[Tensor, "groups columns"]
    power: float


def paired_moments(
    layer: nn.Module,
    now: Sequence[Tensor],
    dense: Sequence[Tensor],
    weight: Float[Tensor, "out columns"],
    *,
    real: Sequence[Bool[Tensor, "..."] | None] = (),
    seed: int = 0,
) -> Moments:
    """Moments over batches.

    Args:
        layer: one that `has_gram`.
        now, dense: its inputs in each batch, in the network as it is and in the dense one.
        weight: its matrix view in the dense network.
        real: rows of each batch that are no padding; empty or None = all are.
        seed: of the rows that are taken where there are too many.
    """
    groups, columns = gram_shape(layer)[-3] if len(gram_shape(layer)) == 3 else 1, gram_shape(layer)[-1]
    sums, generator = _Sums.of(groups, columns, weight), torch.Generator().manual_seed(seed)
    share = max(LEAST, ENOUGH * columns) / max(1, sum(row_count(layer, x) for x in now))
    for i, (x, z) in enumerate(zip(now, dense, strict=True)):
        where = chosen_rows(layer, x, generator, share, real[i] if real else None)
        for some in where.split(max(1, CHUNK // (groups * columns))):
            sums.add(rows_at(layer, x, some), rows_at(layer, z, some))
    return sums.moments()


def sampled_gram(
    layer: nn.Module, inputs: Sequence[Tensor], *, real: Sequence[Bool[Tensor, "..."] | None] = (), seed: int = 0
) -> Float[Tensor, "groups columns columns"]:
    """X X^T / n of a layer's inputs alone, on as many rows as `paired_moments` takes."""
    shape = gram_shape(layer)
    total, rows = torch.zeros(shape, dtype=torch.float64).reshape(-1, *shape[-2:]), 0
    generator = torch.Generator().manual_seed(seed)
    share = max(LEAST, ENOUGH * shape[-1]) / max(1, sum(row_count(layer, x) for x in inputs))
    for i, x in enumerate(inputs):
        for some in chosen_rows(layer, x, generator, share, real[i] if real else None).split(max(1, CHUNK // (len(total) * shape[-1]))):
            now = rows_at(layer, x, some).double()
            total += now.mT @ now
            rows += len(some)
    return total / max(1, rows)


@dataclass(eq=False)
class _Sums:
    """Sums over rows, as they grow."""

    gram: Tensor
    aims: Tensor
    mean: Tensor
    dense_mean: Tensor
    weight: Tensor
    power: float = 0.0
    rows: int = 0

    @classmethod
    def of(cls, groups: int, columns: int, weight: Tensor) -> _Sums:
        parts = weight.detach().double().reshape(groups, -1, columns)
        square, line = (torch.zeros(groups, columns, *more, dtype=torch.float64) for more in ((columns,), ()))
        return cls(square, torch.zeros_like(parts), line, line.clone(), parts)

    def add(self, x: Float[Tensor, "groups rows columns"], z: Float[Tensor, "groups rows columns"]) -> None:
        now, dense = x.double(), z.double()
        self.gram += now.mT @ now
        outputs = dense @ self.weight.mT
        self.aims += outputs.mT @ now
        self.mean += now.sum(1)
        self.dense_mean += dense.sum(1)
        self.power += float(outputs.square().sum())
        self.rows += x.shape[1]

    def moments(self) -> Moments:
        n = max(1, self.rows)
        return Moments(self.rows, self.gram.div_(n), self.aims.div_(n), self.mean / n, self.dense_mean / n, self.power / n)


def imitating(
    weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], aims: Float[Tensor, "out columns"], *, damping: float
) -> Float[Tensor, "out columns"]:
    """W' = (aims + r W) (gram + r I)^-1, r = `damping` times the mean diagonal: W itself when both inputs are the same.

    Args:
        weight: W, the dense network's.
        gram, aims: as in `Moments`, of one group.
        damping: relative, > 0.
    """
    hessian = damped(gram, damping)
    ridge = hessian.diagonal() - gram.diagonal()
    target: Tensor = torch.linalg.solve(hessian, (aims + weight.double() * ridge).mT).mT
    return target


def output_error(new: Float[Tensor, "out columns"], moments: Moments, group: int) -> float:
    """E|W z - V x|^2 - E|W z|^2 of one group: what the layer's outputs are off by, less the mean square of the dense ones."""
    now = new.double()
    return float(((now @ moments.gram[group] - 2 * moments.aims[group]) * now).sum())


def mean_outputs(weight: Tensor, means: Float[Tensor, "groups columns"]) -> Float[Tensor, " out"]:
    """E[W x] of every output of a layer with such mean inputs, float64."""
    matrix = to_matrix(weight.detach()).double()
    per_group = matrix.reshape(len(means), -1, matrix.shape[1])
    return torch.einsum("gok,gk->go", per_group, means).reshape(-1)
