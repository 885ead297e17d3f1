"""Gates of input channels: a number for each channel that the weights of a layer which read it are multiplied with.

Multiplying an input channel of a layer is multiplying its weights of that channel, so gates act on weights: nothing has to be
hooked, and they end up in the weights as they are. In a grouped convolution gate i acts on input i of every group.

Source: the coefficients of Ye et al. 2020, "Good Subnetworks Provably Exist"; there a layer of its own behind the activation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sparsify_cli.maths.channel_terms import by_channel, channel_counts
from sparsify_cli.maths.matrix_view import from_matrix, to_matrix


@dataclass(frozen=True)
class ChannelView:
    """How a tensor's weights belong to input channels.

    Args:
        shape: of the tensor, [out, in, *kernel] or, turned, [in, out].
        turned: stored inputs first.
    """

    shape: tuple[int, ...]
    turned: bool = False

    @property
    def channels(self) -> int:
        """Input channels; 1 for a vector."""
        if len(self.shape) < 2:
            return 1
        return self.shape[0] if self.turned else self.shape[1]

    @property
    def positions(self) -> int:
        """Kernel positions."""
        return math.prod(self.shape[2:])

    def matrix(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "out columns"]:
        """The matrix view."""
        return to_matrix(tensor.T if self.turned else tensor)

    def tensor(self, matrix: Shaped[Tensor, "out columns"]) -> Shaped[Tensor, "..."]:
        """The tensor whose matrix view it is."""
        return matrix.T.contiguous() if self.turned else from_matrix(matrix, self.shape)

    def gated(self, weight: Float[Tensor, "..."], gates: Float[Tensor, " channels"]) -> Float[Tensor, "..."]:
        """The weight with each channel multiplied by its gate; differentiable."""
        return self.tensor(self.matrix(weight) * by_channel(gates, positions=self.positions).to(weight))

    def sizes(self, weight: Float[Tensor, "..."]) -> Int[Tensor, " channels"]:
        """How many weights of each channel are not zero."""
        return channel_counts(self.matrix(weight) != 0, positions=self.positions)

    def ranked(self, weight: Float[Tensor, "..."], standing: Float[Tensor, " channels"]) -> Float[Tensor, "out columns"]:
        """Scores in (0, 1], float64, of the matrix view: whole channels by standing, higher first; inside a channel by magnitude.

        Args:
            standing: whole numbers 1 .. channels, each once.
        """
        size = self.matrix(weight).abs().double()
        inside = size / (2 * size.max().clamp(min=torch.finfo(size.dtype).tiny)) if size.numel() else size
        return (by_channel(standing.double(), positions=self.positions) + inside) / (len(standing) + 1)

    def norms(self, weight: Float[Tensor, "..."]) -> Float[Tensor, " channels"]:
        """Root mean square of each channel's weights, float64."""
        found: Tensor = self.matrix(weight).double().square().mean(0).unflatten(0, (self.positions, -1)).mean(0).sqrt()
        return found


def standing(first: list[int], others: Float[Tensor, " channels"]) -> Float[Tensor, " channels"]:
    """Places from the number of channels down to 1: the first ones in their order, the others by a score, highest first."""
    rest = others.double().masked_fill(
        torch.isin(torch.arange(len(others), device=others.device), torch.tensor(first).to(others.device)), -1
    )
    order = [*first, *rest.sort(descending=True, stable=True).indices[: len(rest) - len(first)].tolist()]
    places = torch.zeros(len(order), dtype=torch.float64, device=others.device)
    places[order] = torch.arange(len(order), 0, -1, dtype=torch.float64, device=others.device)
    return places
