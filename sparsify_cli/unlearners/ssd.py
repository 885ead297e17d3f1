"""Dampen the weights that matter more to the samples to forget than to everything else (selective synaptic dampening).

    I_D, I_S   mean squared gradients over all training samples, and over the k samples to forget
    where I_S > alpha I_D :   theta <- theta * min(lam I_D / I_S, 1)

`prepare` reads the training set once, for I_D; `erase` looks at the samples to forget alone. Nothing is trained.

Source: Foster, Schoepf, Brintrup 2024 (arXiv 2308.07707); alpha = 10 and lam = 1 as there for a ResNet. Differs: squared
gradients of single samples, not of mini-batches. Their choice of alpha by hand is kept: there is no rule that finds it. As S
is part of D, I_S / I_D is at most n / k: where k > n / alpha nothing can be dampened, and a note says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Erasure, Memo, Request, Unlearner
from sparsify_cli.maths.diagonal_fisher import squared_gradients
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.training.erasing import MOVED, UNCHANGED, require
from sparsify_cli.training.prepared import N, checked, stamped
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

IMPORTANCE, SUMMED = "importance", "summed"


@dataclass(frozen=True, kw_only=True)
class Ssd(Unlearner):
    """Dampen what matters to the samples.

    Args:
        alpha: how many times more a weight must matter to the samples to forget than on average.
        lam: scale of the dampening; smaller = stronger.
    """

    alpha: float = 10.0
    lam: float = 1.0

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        require(self.alpha > 0 and self.lam >= 0, f"alpha={self.alpha}, lam={self.lam}", "They are ratios.")

    def effort(self, model: nn.Module, train: Samples, masks: MaskSet) -> str:
        """Samples and parameters."""
        return f"squared gradients of {len(train):,} samples: {Coordinates.of(model, masks).count:,} numbers to keep"

    def prepare(self, model: nn.Module, train: Samples, masks: MaskSet) -> Memo:
        """Sum the squared gradients of every training sample."""
        total = squared_gradients(model, train, Coordinates.of(model, masks))
        return stamped({IMPORTANCE: total, SUMMED: torch.tensor(len(train))}, model, masks, len(train), how="labels=data")

    def erase(self, model: nn.Module, request: Request, memo: Memo | None) -> Erasure:
        """Dampen.

        Raises:
            BadRequest: no memo, or one of another model.
        """
        known = checked(memo, {IMPORTANCE, SUMMED}, model, request, "importance", how="labels=data")
        if not len(request.forget):
            return Erasure({}, (UNCHANGED,))
        everywhere, coordinates = Coordinates.of(model, request.masks), Coordinates.of(model, request.masks, request.frozen)
        kept = coordinates.taken_from(everywhere, known[IMPORTANCE].double() / int(known[SUMMED]))
        ours = squared_gradients(model, request.forget, coordinates) / len(request.forget)
        parameters = {name: p.detach().cpu() for name, p in model.named_parameters()}
        theta = coordinates.flatten(parameters).double()
        step = theta * (self._factor(kept, ours) - 1)
        return Erasure(coordinates.moved(parameters, step), _told(step, self._note(step, len(request.forget), int(known[N]))))

    def _note(self, step: Tensor, k: int, n: int) -> str:
        """Why nothing was dampened, where nothing was."""
        if step.any():
            return ""
        most = f" {k} of {n} samples can weigh at most {n / k:.3g} times more." if self.alpha * k >= n else ""
        lower = f"Lower alpha{f' below {n / k:.3g}' if most else ''}: --set unlearner.alpha="
        return f"No weight matters {self.alpha:g} times more to these samples than to all: nothing was changed.{most} {lower}"

    def _factor(self, everywhere: Tensor, ours: Tensor) -> Tensor:
        damped = (self.lam * everywhere / ours.clamp(min=torch.finfo(ours.dtype).tiny)).clamp(max=1.0)
        return torch.where(ours > self.alpha * everywhere, damped, torch.ones_like(ours))


def _told(step: Tensor, note: str) -> tuple[Finding, ...]:
    changed = int(step.count_nonzero())
    share = "Weights that were dampened, of those that may move."
    return (
        Finding(name="dampened", value=changed / len(step), unit="fraction", n=len(step), definition=share, note=note),
        Finding(name="step_norm", value=float(step.norm()), definition=MOVED),
    )
