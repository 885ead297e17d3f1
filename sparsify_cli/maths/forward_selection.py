"""Forward selection of terms: start from nothing and add, one after another, the term that brings a sum closest to its target.

Terms phi_i, target F = the mean of the N of them that are not zero, and f_a = sum_i a_i phi_i with as few a_i other than zero
as wanted. All that is needed are M_ij = E<phi_i, phi_j>, c_i = E<phi_i, F> and E|F|^2:

    D(a) = E|F - f_a|^2 = a^T M a - 2 a^T c + E|F|^2

    line     a <- (1-g) a + g e_i, the (i, g) that lowers D most. Along i, D(g) = A2 g^2 + 2 A1 g + A0 with
             A2 = a^T M a - 2 (Ma)_i + M_ii    A1 = (Ma)_i - a^T M a - c_i + a^T c    A0 = D(a)
             so g = clip(-A1 / A2, lowest, 1): lowest = -a_i / (1 - a_i), a step away from i, or 0 without such steps
    fixed    g = 1 / (n + 1) at step n, the i that gives the lowest D: a_i = how often i was taken / n
    pursuit  the i with the largest |(c - Ma)_i| / sqrt(M_ii), then all a anew by least squares; a may be negative

In the first two sum_i a_i = 1 and a >= 0 after each step. With `repeats` a term may be taken again, otherwise only away
steps touch it again. After ten steps a wanted term only new ones are taken, so that the selection ends.

Source: Ye et al. 2020, "Good Subnetworks Provably Exist" (fixed steps) and "Greedy Optimization Provably Wins the Lottery"
(local imitation, line search); Pati et al. 1993 (orthogonal matching pursuit). Differs: away steps can be left out; ends by count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PATIENCE = 10
"""Steps a wanted term, after which terms are not taken again."""
DEPENDENT = 1e-10
"""A term is a sum of those taken when this share of its square, or less, is outside of them."""

NOTHING = 1e-12
"""A coefficient that a step away leaves this small is zero."""


@dataclass(frozen=True, eq=False)
class Terms:
    """What is known of the terms.

    Args:
        products: M.
        towards: c.
        power: E|F|^2.
    """

    products: Float[Tensor, "n n"]
    towards: Float[Tensor, " n"]
    power: float

    @property
    def live(self) -> Bool[Tensor, " n"]:
        """Terms that are not zero."""
        live: Tensor = self.products.diagonal() > 0
        return live

    def error(self, coefficients: Float[Tensor, " n"]) -> float:
        """D(a), >= 0 but for rounding."""
        return float(coefficients @ (self.products @ coefficients) - 2 * coefficients @ self.towards) + self.power


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which terms may be taken, and how many.

    Args:
        sizes: what each term counts; one of size 0 is never taken.
        total: the sizes of the terms taken reach this, as far as there are enough.
        group: consecutive terms that form a group.
        room: terms of a group that may be taken.
    """

    sizes: Int[Tensor, " n"]
    total: int
    group: int = 1
    room: int = 1

    @classmethod
    def of(cls, terms: Terms, count: int) -> Wanted:
        """So many of the terms that are not zero."""
        return cls(terms.live.long(), count)

    def is_met(self, taken: Bool[Tensor, " n"]) -> bool:
        """Whether enough is taken."""
        return int(self.sizes[taken].sum()) >= self.total

    def open(self, taken: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Terms that may be taken next and were not before."""
        full = taken.unflatten(0, (-1, self.group)).sum(1) >= self.room
        found: Tensor = (self.sizes > 0) & ~taken & ~full.repeat_interleave(self.group)
        return found


@dataclass(frozen=True, eq=False)
class Selection:
    """What was taken.

    Args:
        picks: the term of each step.
        coefficients: a.
    """

    picks: tuple[int, ...]
    coefficients: Float[Tensor, " n"]

    @property
    def order(self) -> list[int]:
        """The terms whose coefficient is not zero, in the order in which they were first taken."""
        return [term for term in dict.fromkeys(self.picks) if float(self.coefficients[term]) != 0]


def best_steps(
    terms: Terms, coefficients: Float[Tensor, " n"], image: Float[Tensor, " n"], lowest: Float[Tensor, " n"], highest: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The best step towards each term, and D after it.

    Args:
        coefficients: a.
        image: M a.
        lowest, highest: bounds of each step.
    """
    square, along = coefficients @ image, coefficients @ terms.towards
    curvature = (square - 2 * image + terms.products.diagonal()).clamp(min=0)
    slope = image - square - terms.towards + along
    tiny = torch.finfo(curvature.dtype).tiny
    steps = torch.where(curvature > 0, -slope / curvature.clamp(min=tiny), -slope.sign() * torch.inf).nan_to_num(0.0)
    steps = steps.clamp(lowest, highest)
    return steps, (curvature * steps + 2 * slope) * steps + (square - 2 * along) + terms.power


def line_search(terms: Terms, wanted: Wanted, *, repeats: bool = True, away: bool = True) -> Selection:
    """Local imitation: the term and the step that lower D most, until enough terms are taken or none of them lowers it."""
    a, image, picks = torch.zeros_like(terms.towards), torch.zeros_like(terms.towards), list[int]()
    limit, before = PATIENCE * _at_most(wanted), torch.inf
    while not wanted.is_met(a > 0):
        lowest, highest = _bounds(a, wanted.open(a > 0), repeats, away) if len(picks) < limit else _new(wanted.open(a > 0))
        steps, errors = best_steps(terms, a, image, lowest, highest)
        errors = errors.masked_fill(steps == 0, torch.inf)
        pick = int(errors.argmin())
        if not float(errors[pick]) < before:
            break
        before, step = float(errors[pick]), steps[pick]
        a, image = (1 - step) * a, (1 - step) * image + step * terms.products[pick]
        a[pick] = torch.where(a[pick] + step > NOTHING, a[pick] + step, 0.0)
        picks.append(pick)
    return Selection(tuple(picks), a)


def fixed_step(terms: Terms, wanted: Wanted, *, repeats: bool = True) -> Selection:
    """The term that is best after a step of 1/(n+1), until enough are taken: coefficients are counts / n."""
    counts, image, picks = torch.zeros_like(terms.towards), torch.zeros_like(terms.towards), list[int]()
    diagonal, square, along = terms.products.diagonal(), terms.towards.new_zeros(()), terms.towards.new_zeros(())
    limit = PATIENCE * _at_most(wanted)
    while not wanted.is_met(counts > 0):
        fresh = wanted.open(counts > 0)
        open_ = fresh | (counts > 0) if repeats and len(picks) < limit else fresh
        if not bool(open_.any()):
            break
        n = len(picks) + 1
        errors = (square + 2 * image + diagonal) / n**2 - 2 * (along + terms.towards) / n
        pick = int(errors.masked_fill(~open_, torch.inf).argmin())
        square, along = square + 2 * image[pick] + diagonal[pick], along + terms.towards[pick]
        counts[pick] += 1
        image = image + terms.products[pick]
        picks.append(pick)
    return Selection(tuple(picks), counts / max(1, len(picks)))


def pursuit(terms: Terms, wanted: Wanted) -> Selection:
    """Orthogonal matching pursuit; the terms taken are orthogonalised one after another (a Cholesky factorisation of M in their order)."""
    diagonal, residual = terms.products.diagonal(), terms.towards.clone()
    left, taken, picks = diagonal.clone(), torch.zeros_like(terms.towards, dtype=torch.bool), list[int]()
    rows, along = terms.products.new_zeros(_at_most(wanted), len(left)), terms.products.new_zeros(_at_most(wanted))
    while not wanted.is_met(taken):
        open_ = wanted.open(taken) & (left > DEPENDENT * diagonal)
        if not bool(open_.any()):
            break
        gains = residual.square() / diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny)
        pick, n = int(gains.masked_fill(~open_, -1).argmax()), len(picks)
        rows[n] = (terms.products[pick] - rows[:n, pick] @ rows[:n]) / left[pick].sqrt()
        along[n] = residual[pick] / left[pick].sqrt()
        residual, left = residual - rows[n] * along[n], left - rows[n].square()
        taken[pick] = True
        picks.append(pick)
    factor = rows[: len(picks), picks].triu()
    found = torch.linalg.solve_triangular(factor, along[: len(picks), None], upper=True)[:, 0]
    coefficients = torch.zeros_like(residual)
    coefficients[picks] = found
    return Selection(tuple(picks), coefficients)


def _at_most(wanted: Wanted) -> int:
    """Terms that are taken at most."""
    return min(int((wanted.sizes > 0).sum()), max(0, wanted.total))


def _bounds(a: Tensor, fresh: Tensor, repeats: bool, away: bool) -> tuple[Tensor, Tensor]:
    """The lowest and the highest step towards each term; the first step goes all the way."""
    if not bool((a > 0).any()):
        return fresh.to(a), fresh.to(a)
    highest = (fresh | (a > 0) if repeats else fresh).to(a)
    lowest = torch.where(a < 1, -a / (1 - a).clamp(min=torch.finfo(a.dtype).eps), 0.0) if away else torch.zeros_like(a)
    return lowest, highest


def _new(fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Steps towards new terms only."""
    return torch.zeros_like(fresh, dtype=torch.float64), fresh.double()
