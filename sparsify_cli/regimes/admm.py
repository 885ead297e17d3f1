"""Pull dense weights towards the sparse set while they train, then prune and retrain (ADMM).

    minimise f(W) with W in S, S = the networks of the target sparsity and pattern, as f(W) + [Z in S] with W = Z

    start             Z = P(W), U = 0
    a step            g = df/dW + rho * (W - Z + U), the optimizer's step on W
    every `every`     Z = P(W + U);  U = U + W - Z;  rho grows, U = U * (rho before / rho now)
    hard prune        W = P(W), its mask holds; then ordinary steps for the last `retrain`

P keeps what the recipe's criterion, allocation and pattern keep; with --criterion magnitude it is the Euclidean projection.
U is the scaled dual. rho grows along a geometric sequence from `rho` at the start to `rho_end` at the last projection: small
lets the weights learn where they will be missed, large brings W and Z together. How far apart they are is told at every
projection, as gap = |W - Z|^2 / |Z|^2; the larger it is at the hard prune, the more that prune hurts. What was pruned before the
run stays pruned.

Source: Zhang et al. 2018 (arXiv 1804.03294) and the authors' code (kaiqzhan/admm-pruning): W, Z and U updates, masked retraining,
a constant rho (sample_configs/finetune-admm.yaml). rho from 1e-3 to 1, times 1.3 an update: the training scripts of their later
work, which do not rescale U; Boyd et al. 2011, section 3.4.1, for that. Differs: the projection is global unless --allocation
says otherwise (theirs has a ratio for each layer), and counts are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import aim, guard, masking
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

SPARSE, DUAL = "admm.z.", "admm.u."

WIDE = 0.01
"""Gap at the hard prune from which W and Z count as not yet one."""


@dataclass(frozen=True, kw_only=True)
class Admm(Regime):
    """Alternating direction method of multipliers, hard prune, masked retraining.

    Args:
        rho: pull towards the sparse weights at the start, >= 0.
        rho_end: pull at the last projection, at least `rho`.
        every: time between two projections, at least one step.
        retrain: how long the network trains with its masks fixed, at the end of the run.
    """

    rho: float = 1e-3
    rho_end: float = 1.0
    every: str = "0.05run"
    retrain: str = "0.25run"

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        for text in (self.every, self.retrain):
            Duration.parse(text)
        if not (0 <= self.rho <= self.rho_end and math.isfinite(self.rho_end)) or (self.rho == 0 < self.rho_end):
            raise BadRequest(
                f"admm cannot pull with rho from {self.rho:g} to {self.rho_end:g}.",
                "It grows by the same factor at each projection.",
                "Choose 0 < rho <= rho_end, such as 1e-3 and 1.",
            )

    def start(self, run: Run) -> None:
        """Project for the first time.

        Raises:
            BadRequest: retraining leaves no step before it, no target, or a criterion that ranks how weights moved.
        """
        aim.refuse_movement(run, "admm")
        if self._prune_at(run) < 1:
            what = f"admm would retrain {self.retrain} of {run.total} steps, and have none before."
            raise BadRequest(what, "", "Make regime.retrain shorter, or train more --epochs.")
        guard.enforce(run)
        weights = run.weights()
        run.memory |= {DUAL + name: torch.zeros_like(weights[name]) for name in aim.masks_at_target(run, anew=True)}
        _project(run)

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One step on loss and pull; a projection or the hard prune before it, if it is time."""
        prune_at, every = self._prune_at(run), self._every(run)
        if run.step == prune_at:
            self._prune(run)
        if run.step >= prune_at:
            return guard.descend(run, loss)
        if run.step and run.step % every == 0:
            self._update(run, run.step // every)
        value = guard.gradients(run, loss)
        _pull(run, self.rho_after(run, run.step // every))
        guard.update(run)
        return value

    def finish(self, run: Run) -> None:
        """Prune, unless that is done."""
        if run.step <= self._prune_at(run):
            self._prune(run)

    def rho_after(self, run: Run, projections: int) -> float:
        """The pull after so many projections, the one at the start not counted."""
        last = (self._prune_at(run) - 1) // self._every(run)
        return self.rho * (self.rho_end / self.rho) ** (projections / last) if last and self.rho else self.rho

    def _update(self, run: Run, projections: int) -> None:
        """Project, move the dual, let the pull grow."""
        before, now = (self.rho_after(run, count) for count in (projections - 1, projections))
        old = {part.name: part.sparse for part in _parts(run)}
        _project(run)
        rescale = before / now if now else 1.0
        run.memory |= {DUAL + part.name: (part.dual + part.weight - part.sparse) * rescale for part in _parts(run)}
        new = {part.name: part.sparse for part in _parts(run)}
        moved = _norm([new[name] - old[name] for name in new])
        run.tell("admm", rho=now, gap=_gap(run), sparse_moved=moved, **masking.changes(MaskSet.from_zeros(old), MaskSet.from_zeros(new)))

    @staticmethod
    def _prune(run: Run) -> None:
        gap = _gap(run)
        run.tell("admm", gap=gap)
        if gap > WIDE:
            run.tell(
                "warning",
                text=f"when they were pruned, the weights of admm were {math.sqrt(gap):.0%} apart from their sparse copy: "
                "train longer, or raise regime.rho_end.",
            )
        run.forget(SPARSE, DUAL)
        masking.switch(run, aim.masks_at_target(run), event="pruned")

    def _prune_at(self, run: Run) -> int:
        """Steps before the hard prune."""
        return run.total - Duration.parse(self.retrain).steps(per_epoch=run.per_epoch, total=run.total)

    def _every(self, run: Run) -> int:
        return max(1, Duration.parse(self.every).steps(per_epoch=run.per_epoch, total=run.total))


class _Part(NamedTuple):
    """W, Z and U of one prunable weight."""

    name: str
    weight: Tensor
    sparse: Tensor
    dual: Tensor


def _parts(run: Run) -> Iterator[_Part]:
    """The prunable weights; what was resumed lies on the CPU."""
    for name, weight in run.weights().items():
        if DUAL + name in run.memory:
            yield _Part(name, weight, *(run.memory.get(key + name, weight).to(weight.device) for key in (SPARSE, DUAL)))


def _project(run: Run) -> None:
    """Z = P(W + U)."""
    shifted = {part.name: part.weight + part.dual for part in _parts(run)}
    masks = aim.masks_at_target(run, shifted)
    run.memory |= {SPARSE + name: value.masked_fill(~masks[name].to(value.device), 0) for name, value in shifted.items()}


@torch.no_grad()
def _pull(run: Run, rho: float) -> None:
    """Add rho * (W - Z + U) to the gradients."""
    gradients = {name: parameter.grad for name, parameter in run.model.named_parameters()}
    for part in _parts(run):
        gradient = gradients[part.name]
        if gradient is not None:
            gradient.add_(part.weight - part.sparse + part.dual, alpha=rho)


def _gap(run: Run) -> float:
    """|W - Z|^2 / |Z|^2 over all prunable weights."""
    apart = _norm([part.weight - part.sparse for part in _parts(run)])
    return (apart / max(_norm([part.sparse for part in _parts(run)]), 1e-30)) ** 2


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
