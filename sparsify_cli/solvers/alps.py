"""ALPS: the mask and the weights from one optimisation (ADMM), then least squares on the mask.

The layer's problem is  min 1/2 ||(W - D) X||^2  over D with `keep.count` weights. It is split into B, which fits the outputs, and
D, which holds the count; a multiplier V draws them together, harder and harder as rho grows. With columns scaled so that the
damped Gram matrix A has a unit diagonal, A = Q L Q^T, and G = W A:

    B = (G - V + rho D) (A + rho I)^-1        (A + rho I)^-1 = Q (L + rho)^-1 Q^T
    D = the best of B + V / rho               as many as must stay, N of M
    V = V + rho (B - D)

Every 3 iterations rho grows with the share c of weights that entered or left the mask: x 1.3 above 10 %, x 1.2 above 0.5 %,
x 1.1 above none; no change ends it, and so does c < 0.03 % from iteration 30 on. While rho has never grown, c <= 0.5 % divides it
by 5 and the iteration begins anew, a few times. Then the weights on the mask are set by least squares.

One eigendecomposition serves all counts of a ladder. The state is T = rho B + V alone: V is T where pruned and rho D is T where kept,
so that an iteration costs one product with the inverse (wide layers: two with Q) and three passes over the weights.

Source: Meng et al. 2024, arXiv 2406.07831 (ALPS), algorithm 1; official code mazumder-lab/ALPS, alps.py. Differs: the last step is
exact (theirs: 10 conjugate gradients); the first mask is tried too where so few weights stay that its least squares cost no more than
an iteration (there ADMM can end in a worse place); exact counts and stable ties; useless weights (an input that is never active, or
pruned before) go first; a bound on restarts; decomposition and refit in float64, and the iteration in float32 as theirs: on layers of
ResNet-20 the errors are those of float64 to 0.02 %. Defaults are the paper's: rho=0.02, every=10, iterations=2000 takes 2 to 4 times as
long and leaves errors 2 to 30 % lower on layers of small networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver, Solution
from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.gram import damped, output_change
from sparsify_cli.maths.refit import is_exact_cheaper, refit, refit_by_iteration
from sparsify_cli.maths.usable import Usable, best

RESTARTS = 5
"""Times rho is divided at most; the paper's code has no bound, and never ends early where the first mask is the best."""
LARGEST = 1e6
"""rho grows no further, as in the paper's code."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class ALPS(LayerSolver):
    """ADMM for the mask, least squares for the weights.

    Args:
        rho: how hard the fit and the mask are drawn together at first.
        iterations: at most.
        every: iterations between changes of rho.
        settled: from the 30th iteration on, a smaller share of weights entering or leaving the mask ends the iteration.
        damping: added to the diagonal of the Gram matrix, relative to its mean.
        refit: `exact` = Cholesky factors of every row's part of the Gram matrix; `cg` = conjugate gradients to `tolerance`;
            `auto` = whichever takes fewer operations (cg for several thousand columns with many weights left).
        tolerance: of conjugate gradients: residual over that of no weights, in every row; 1e-4 leaves the error within 0.01 % or so.
        precision: of the iteration that finds the mask; decomposition and refit are float64.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    rho: Positive = 0.1
    iterations: Annotated[int, Field(ge=1)] = 300
    every: Annotated[int, Field(ge=1)] = 3
    settled: Annotated[float, Field(ge=0, lt=1)] = 0.0003
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    refit: Literal["auto", "exact", "cg"] = "auto"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    precision: Literal["float32", "float64"] = "float32"
    sequential: bool = True
    transposes: ClassVar[bool] = True

    def solve(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep
    ) -> tuple[Float[Tensor, "out columns"], Bool[Tensor, "out columns"]]:
        """Prune and repair one layer."""
        return self.ladder(weight, gram, keep, [keep.count])[0]

    def ladder(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep, counts: Sequence[int]
    ) -> list[Solution]:
        """Solutions for several counts, from one eigendecomposition; each is what `solve` gives."""
        layer = _Layer(weight.detach().double(), gram.double(), keep, self.damping, getattr(torch, self.precision))
        for count in counts:
            layer.usable.require_room(count, keep.pattern)
        return [self._solution(layer, count) for count in counts]

    def layer_memory(self, outputs: int, columns: int) -> int:
        """The decomposition with its workspace and the inverse; the state of the iteration, scores and what is fitted."""
        return 8 * (7 * columns**2 + 11 * outputs * columns)

    def _solution(self, layer: _Layer, count: int) -> Solution:
        if count in (0, layer.dense.numel()):
            mask = torch.full_like(layer.dense, count > 0, dtype=torch.bool)
            return layer.dense * mask, mask
        found = self._fitted(layer, *self._iterated(layer, count))
        if not is_exact_cheaper(found[1], than=1):
            return found
        first = layer.best(layer.scaled, count)
        return min(found, (refit(layer.dense, layer.hessian, first), first), key=lambda solution: layer.error(solution[0]))

    def _fitted(self, layer: _Layer, start: Tensor, mask: Tensor) -> Solution:
        """Least squares on a mask."""
        if self.refit == "exact" or (self.refit == "auto" and is_exact_cheaper(mask)):
            return refit(layer.dense, layer.hessian, mask), mask
        return refit_by_iteration(layer.dense, layer.hessian, mask, start=start, tolerance=self.tolerance), mask

    def _iterated(self, layer: _Layer, count: int) -> Solution:
        """A start for the refit, and the mask."""
        rho, restarts, grown = self.rho, 0, False
        state, mask = layer.begin(rho, count)
        inverse, seen = layer.inverse(rho), mask
        for step in range(1, self.iterations + 1):
            state = inverse.advance(state, mask, layer.fit)
            mask = layer.best(state, count)
            if step % self.every:
                continue
            changed = int((mask ^ seen).sum())
            factor = self._factor(changed / count, changed, grown)
            if factor == 1 or (step >= 30 and changed < self.settled * count) or (factor < 1 and restarts == RESTARTS):
                break
            before, rho = rho, min(rho * factor, LARGEST)
            grown, restarts = grown or factor > 1, restarts + (factor < 1)
            if factor < 1:
                state, mask = layer.begin(rho, count)
            else:
                state.mul_(torch.where(mask, rho / before, 1.0))  # rho D grows with rho, V does not
            inverse, seen = layer.inverse(rho), mask
        return layer.unscaled(state / rho).masked_fill_(~mask, 0), mask

    @staticmethod
    def _factor(share: float, changed: int, grown: bool) -> float:
        """What rho is multiplied with; 1 = done."""
        if share > 0.1:
            return 1.3
        if share > 0.005:
            return 1.2
        if not grown:
            return 0.2
        return 1.1 if changed else 1.0


@dataclass(frozen=True, eq=False)
class _Inverse:
    """(A + rho I)^-1, formed where that saves more than it costs."""

    rho: float
    vectors: Float[Tensor, "columns columns"]
    values: Float[Tensor, " columns"]
    formed: Float[Tensor, "columns columns"] | None

    def advance(self, state: Tensor, mask: Tensor, fit: Tensor) -> Tensor:
        """The next T = V + rho B, in the memory of the last."""
        side = torch.where(mask, state, -state).add_(fit)
        state.masked_fill_(mask, 0)
        if self.formed is not None:
            return state.addmm_(side, self.formed, alpha=self.rho)
        return state.addmm_((side @ self.vectors).mul_(self.values), self.vectors.mT, alpha=self.rho)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's problem, with columns scaled so that the damped Gram matrix has a unit diagonal."""

    dense: Float[Tensor, "out columns"]
    gram: Float[Tensor, "columns columns"]
    keep: Keep
    damping: float
    dtype: torch.dtype

    @cached_property
    def usable(self) -> Usable:
        return Usable.of(self.dense, self.gram, self.keep.within)

    @cached_property
    def hessian(self) -> Tensor:
        if not bool(self.gram.isfinite().all()):
            raise Anomalous(f"The Gram matrix of {len(self.gram)} inputs holds NaN or infinity.", "", "Check the calibration data.")
        return damped(self.gram, self.damping)

    @cached_property
    def norms(self) -> Tensor:
        return self.hessian.diagonal().sqrt()

    @cached_property
    def unit(self) -> float:
        """The largest scaled weight: float32 sees numbers about 1."""
        return float((self.dense * self.norms).abs().max()) or 1.0

    @cached_property
    def scaled(self) -> Tensor:
        return (self.dense * self.norms / self.unit).to(self.dtype)

    @cached_property
    def fit(self) -> Tensor:
        """G = W A."""
        return (self.dense @ self.hessian / self.norms / self.unit).to(self.dtype)

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of A, both in the dtype of the iteration."""
        values, vectors = torch.linalg.eigh(self.hessian / self.norms / self.norms[:, None])
        return values.clamp(min=0), vectors.to(self.dtype).contiguous()

    def inverse(self, rho: float) -> _Inverse:
        """Forming costs as much as `columns` / `out` saved products, and is used for a few iterations."""
        values, vectors = self.spectrum
        shrunk = (1 / (values + rho)).to(self.dtype)
        formed = (vectors * shrunk) @ vectors.mT if len(vectors) <= 2 * len(self.dense) else None
        return _Inverse(rho, vectors, shrunk, formed)

    def begin(self, rho: float, count: int) -> Solution:
        """T where V = 0 and D = the largest weights, and their mask."""
        mask = self.best(self.scaled, count)
        return (self.scaled * rho).masked_fill_(~mask, 0), mask

    def best(self, state: Tensor, count: int) -> Tensor:
        """The mask of D."""
        return best(self.usable.ranked(state.abs()), count, self.keep.pattern)

    def error(self, repaired: Tensor) -> float:
        """The change of outputs, damping included."""
        return output_change(self.dense - repaired, self.hessian)

    def unscaled(self, state: Tensor) -> Tensor:
        return state.double() * self.unit / self.norms
