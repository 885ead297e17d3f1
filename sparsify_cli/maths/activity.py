"""How active each input column of a layer is, gathered batch by batch: mean, variance and share of non-zeros.

Rows and columns are those of `gram.input_rows`: one row a multiplication with the weight, columns in the order of the
matrix view. The zeros that padding adds are inputs like any other; they are the same for every channel.

With n_a rows seen so far and n_b new ones, means m and sums of squared distances from the mean s:

    m = m_a + (m_b - m_a) n_b / n
    s = s_a + s_b + (m_b - m_a)^2 n_a n_b / n,      variance = s / n

Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1. A sum of terms >= 0: unlike
E[x^2] - E[x]^2 it is never negative and keeps its digits where the mean is far larger than the spread.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sparsify_cli.errors import MissingContext
from sparsify_cli.maths.gram import CHUNK, input_parts, input_rows
from sparsify_cli.values.stats import Inputs


class Activity:
    """Running statistics of one layer's inputs, float64, on the device of the inputs; memory is that of a few rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._mean = self._squares = self._nonzero = torch.zeros((), dtype=torch.float64)

    @property
    def rows(self) -> int:
        """How many rows were seen; of one group, for a grouped convolution."""
        return self._rows

    def add(self, layer: nn.Module, inputs: Shaped[Tensor, "..."]) -> None:
        """Take in one batch.

        Args:
            layer: one that `has_gram`, the same at every call.
            inputs: as its forward takes them: [..., features] or [n, channels, *size].
        """
        for part in input_parts(layer, inputs):
            rows = input_rows(layer, part)
            for chunk in rows.split(max(1, CHUNK // (rows.shape[0] * rows.shape[2])), dim=1):
                self._merge(chunk.double())

    def result(self) -> Inputs:
        """What was seen, [columns], or [groups, columns] for a grouped convolution.

        Raises:
            MissingContext: there were no rows.
        """
        if not self._rows:
            raise MissingContext("The layer saw no inputs.", "Its activity is a mean over calibration rows.", "Give --data with samples.")
        found = (self._mean, self._squares / self._rows, self._nonzero / self._rows)
        return Inputs(*(value[0] if len(value) == 1 else value for value in found))

    def _merge(self, rows: Float[Tensor, "groups rows columns"]) -> None:
        new = rows.shape[1]
        if not new:
            return
        variance, mean = torch.var_mean(rows, 1, correction=0)
        total, apart = self._rows + new, mean - self._mean.to(mean.device)
        between = apart.square() * (self._rows * (new / total))
        self._squares = self._squares.to(mean.device) + variance * new + between
        self._mean = self._mean.to(mean.device) + apart * (new / total)
        self._nonzero = self._nonzero.to(mean.device) + rows.count_nonzero(1)
        self._rows = total
