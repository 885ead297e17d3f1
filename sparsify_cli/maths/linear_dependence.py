"""How well a linear regression tells each column of a table from the others: R^2 of all columns from one matrix.

With standardised columns Z and P the inverse of their correlations,

    residuals of column j = Z P_j / P_jj        R^2_j = 1 - 1 / P_jj

Where columns depend on each other exactly there is no inverse; eigenvalues below 1e-12 are then raised to it, which gives R^2 = 1 for
the columns that are part of the dependence and leaves the others as the pseudo-inverse has them. A constant column tells nothing
about the others, and has no R^2 itself.

Each row contributes R^2_j - (e^2 - (1 - R^2_j) z^2), e its residual, to R^2_j: the mean of that over rows is R^2_j and its spread the
spread of R^2_j, to first order in 1 / n, so a bootstrap of the mean does for R^2.

Source: textbook identities of the inverse correlation matrix (Whittaker 1990, Graphical Models in Applied Multivariate Statistics,
section 5.7); the contributions are the influence function of R^2. chance_level: R^2 of p regressors that tell nothing is
Beta(p / 2, (n - p - 1) / 2) for normal columns; upper end by Wilson and Hilferty 1931.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SMALLEST = 1e-12
Z_UPPER = 1.959963984540054


class LinearDependence(NamedTuple):
    """R^2 of each column given the others, NaN for a constant one, and what each row contributes to it."""

    r_squared: Float[Tensor, " a"]
    contributions: Float[Tensor, "n a"]


def constant(table: Int[Tensor, "n a"]) -> Bool[Tensor, " a"]:
    """True for the columns that hold one value only."""
    return (table == table[:1]).all(dim=0)


def linear_dependence(table: Int[Tensor, "n a"]) -> LinearDependence:
    """R^2 of a linear regression, with intercept, of each column on all the others, fitted and scored on the same rows.

    Args:
        table: whole numbers, one row a sample, at least one.
    """
    fixed = constant(table)
    standard = _standardised(table)
    precision = _inverse(_correlations(table, fixed))
    diagonal = precision.diagonal()
    r_squared = (1 - 1 / diagonal).clamp(0, 1)
    residuals = standard @ precision / diagonal
    contributions = r_squared - (residuals.square() - (1 - r_squared) * standard.square())
    return LinearDependence(torch.where(fixed, torch.nan, r_squared), torch.where(fixed, torch.nan, contributions))


def chance_level(regressors: int, n: int) -> tuple[float, float]:
    """R^2 that regressors which tell nothing show on `n` rows: usually, and at most in 39 of 40 cases.

    Args:
        regressors: how many.
        n: rows.
    """
    if not regressors:
        return 0.0, 0.0
    spread = 2 / (9 * regressors)
    upper = regressors * (1 - spread + Z_UPPER * math.sqrt(spread)) ** 3
    return min(1.0, regressors / max(n - 1, 1)), min(1.0, upper / max(n - 1, 1))


def optimism(r_squared: float, regressors: int, n: int) -> float:
    """By how much R^2 on the rows it was fitted on exceeds the adjusted R^2, which makes up for the fit (Wherry 1931).

    Args:
        r_squared: on `n` rows.
        regressors: how many.
        n: rows; with no more than regressors + 1 of them everything fits.
    """
    free = n - regressors - 1
    return (1 - r_squared) * regressors / free if free > 0 else r_squared


def _standardised(table: Int[Tensor, "n a"]) -> Float[Tensor, "n a"]:
    centred = table - table.double().mean(dim=0)
    size = centred.square().mean(dim=0).sqrt()
    return centred / torch.where(size > 0, size, 1.0)


def _correlations(table: Int[Tensor, "n a"], fixed: Bool[Tensor, " a"]) -> Float[Tensor, "a a"]:
    """From counts, which are exact and know no order of rows; a constant column is linked to nothing."""
    values, n = table.double(), len(table)
    sums = values.sum(dim=0)
    covariance = n * (values.T @ values) - sums[:, None] * sums[None, :]
    size = torch.where(fixed, 1.0, covariance.diagonal()).sqrt()
    linked = covariance / (size[:, None] * size[None, :])
    return torch.where(fixed[:, None] | fixed[None, :], 0.0, linked).fill_diagonal_(1.0)


def _inverse(correlations: Float[Tensor, "a a"]) -> Float[Tensor, "a a"]:
    values, vectors = torch.linalg.eigh(correlations)
    inverse: Tensor = (vectors / values.clamp(min=SMALLEST)) @ vectors.T
    return inverse
