"""Input channels of a layer as the terms of a sum: what each adds to the layer's outputs.

A layer of N input channels that add something puts out F = (1/N) sum_i phi_i with phi_i = N W_i x_i, W_i and x_i the columns and
the inputs that belong to channel i, at all kernel positions. With the Gram matrix G in blocks G_ij = E[x_i x_j^T]:

    M_ij = E<phi_i, phi_j> = N^2 tr(W_i G_ij W_j^T) = N^2 sum of (W^T W o G)_ij        o = entry by entry
    c_i  = E<phi_i, F>     = (1/N) sum_j M_ij          E|F|^2 = (1/N^2) sum_ij M_ij

Columns are those of the matrix view: kernel positions x channels, channels fastest. A layer of which channel i is kept with the
coefficient a_i has the weights a_i N W_i.

Source: Ye et al. 2020, "Good Subnetworks Provably Exist" (the scaling by N); the closed form is ours, and N
leaves out channels that are zero, pruned before or never active.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.maths.forward_selection import Terms


def channel_terms(weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], *, positions: int = 1) -> Terms:
    """M, c and E|F|^2 of a layer's input channels, in float64.

    Args:
        weight: matrix view.
        gram: X X^T / n.
        positions: kernel positions; they divide the number of columns.
    """
    precise = weight.double()
    channels = weight.shape[1] // positions
    weighed = (precise.T @ precise) * gram.double()
    products = weighed.unflatten(1, (positions, channels)).unflatten(0, (positions, channels)).sum((0, 2))
    scale = max(1, int((products.diagonal() > 0).sum()))
    return Terms(products * scale**2, products.sum(1) * scale, float(products.sum()))


def by_channel(values: Float[Tensor, " channels"], *, positions: int = 1) -> Float[Tensor, " columns"]:
    """A number a channel -> the same number at each of its columns."""
    return values.repeat(positions)


def channel_counts(places: Bool[Tensor, "out columns"], *, positions: int = 1) -> Int[Tensor, " channels"]:
    """How many of some places each channel has."""
    counts: Tensor = places.sum(0).unflatten(0, (positions, -1)).sum(0)
    return counts
